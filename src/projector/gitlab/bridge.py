"""The bridge's process: state, source, sender and heartbeats, wired together until a signal."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

import structlog
from aiokafka.errors import KafkaError

from projector.clients.retry import retry_outages, wait_until_ready
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import AccessError, OperatorError
from projector.events.model import SOURCES, Topic
from projector.gitlab import lost_state, metrics, web
from projector.gitlab.last_sent import SOURCE
from projector.gitlab.lost_state import Audit
from projector.gitlab.mapping.acceptance import Refusal
from projector.gitlab.mapping.state import State
from projector.gitlab.mapping.state_file import StateInUseError
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.poll import PollSource, needed_staleness
from projector.gitlab.postgres.database import Digests
from projector.gitlab.postgres.dsn import connection_strings, is_exposed, place
from projector.gitlab.postgres.token_digests import TokenDigests
from projector.gitlab.prune import prune_forever
from projector.gitlab.self_check import check_forever
from projector.gitlab.sender import Sender
from projector.gitlab.source import Source, databases
from projector.gitlab.source_heartbeats import SourceHeartbeats
from projector.gitlab.stream.source import StreamSource
from projector.kafka import topics
from projector.kafka.range_reader import RangeReader
from projector.process import refuse_stray_cancellation, until_signalled

log = structlog.get_logger()

# Between attempts to lock the state: another bridge may end.
LOCK_S: Final = 0.5
# Acknowledgements that no batch has stored are stored after this time.
SETTLE_S: Final = 1.0
# A statement of SQLite or a read from PostgreSQL may go on for minutes. The state's file is safe.
HARD_EXIT_S: Final = 0.8
HARD_EXIT_AFTER_ERROR_S: Final = 5.0


async def run_bridge(settings: Settings, gitlab: GitlabSettings, audit: Audit | None) -> None:
    """Feed the topics until SIGTERM or SIGINT; raise the error that makes that impossible.

    With an audit everything is sent again, and it ends the rest before heartbeats begin.
    """
    dsns = connection_strings(gitlab)
    _warn(settings, gitlab, dsns)
    await until_signalled(_run(settings, gitlab, dsns, audit))
    log.info("bridge stopped")


def _exit_within(seconds: float, status: int) -> None:
    """End the process although a thread may be busy for long; a clean end comes first."""
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True
    timer.start()


def _warn(settings: Settings, gitlab: GitlabSettings, dsns: Any) -> None:
    for dsn in dsns.values():
        if is_exposed(dsn):
            log.warning(
                "the connection to PostgreSQL may be read or forged", place=place(dsn),
                advice="set sslmode=verify-full and sslrootcert in its connection string",
            )  # fmt: skip
    if SOURCE not in settings.source_names:
        log.warning("workers do not wait for the bridge's heartbeats",
                    advice=f"set PROJECTOR_SOURCES={SOURCE} for all commands")  # fmt: skip
    if gitlab.source == "poll":
        needed = needed_staleness(gitlab)
        log.info("polling", least_max_staleness=needed, max_staleness=settings.max_staleness)
        if settings.max_staleness < needed:
            log.warning("polled answers will be too old", least=needed,
                        advice="raise PROJECTOR_MAX_STALENESS for all commands, or poll more "
                        "often")  # fmt: skip


async def _run(settings: Settings, gitlab: GitlabSettings, dsns: Any, audit: Audit | None) -> None:
    health: dict[str, Any] = {"step": "waiting for the state"}
    began = time.monotonic()
    metrics.LAG.set_function(lambda: time.monotonic() - began)
    async with AsyncExitStack() as stack:
        page = await stack.enter_async_context(web.serving(gitlab, lambda: health))
        log.info(
            "bridge started", kafka=settings.kafka, state=str(gitlab.state), source=gitlab.source,
            databases=[place(dsn) for dsn in dsns.values()], metrics=f"http://{page}/metrics",
        )  # fmt: skip
        state = await stack.enter_async_context(_opened(gitlab, by_counter=_counts(gitlab, dsns)))
        health["step"] = "waiting for Kafka"
        reader = RangeReader(settings)
        partitions, has_sources = await _wait_for_topics(settings)
        await wait_until_ready("Kafka", settings.kafka, reader.start)
        stack.push_async_callback(reader.stop)
        check = partial(lost_state.require_last, state, settings) if has_sources else None
        sender = Sender(settings, reader, state, partitions, check)
        metrics.UNSENT.set_function(lambda: sender.unsent)
        begins = await lost_state.refuse(
            state, sender, settings, audits=audit is not None, has_sources=has_sources
        )
        health["step"] = "running"
        memory = Memory(state, sender)
        kind = PollSource if gitlab.source == "poll" else StreamSource
        digests = await stack.enter_async_context(_decrypting(gitlab))
        followed = databases(gitlab, dsns)
        source = kind(followed, gitlab, memory, sender, digests)
        beats: SourceHeartbeats | None = None
        if has_sources:
            name = str(await state.run(lambda s: s.noted(lost_state.NAME)))
            beats = SourceHeartbeats(settings, sender, source.look, gitlab.heartbeat, name)
            if begins:
                await wait_until_ready("Kafka", settings.kafka, beats.claim)
        works: list[Any] = [
            source.run(),
            sender.run(),
            _settle(state),
            _watch(settings, partitions),
        ]
        works.append(_check(source, memory))
        if kind is StreamSource:
            works.append(_prune(source, memory, followed[-1].dsn))
        works.append(_vouch(source, memory, sender, beats, audit))
        await _until_one_fails(works)


def _counts(gitlab: GitlabSettings, dsns: Any) -> bool:
    """Whether no LSN orders the events: there is none, or there are those of two databases."""
    return gitlab.source == "poll" or len(dsns) > 1


@asynccontextmanager
async def _decrypting(gitlab: GitlabSettings) -> AsyncIterator[Digests | None]:
    """Start the process that has GitLab's key, where tokens are to be decrypted."""
    if gitlab.db_key_file is None:
        yield None
        return
    tokens = await asyncio.to_thread(TokenDigests, gitlab.db_key_file)
    try:
        yield _counting(tokens)
    finally:
        tokens.close()


def _counting(tokens: TokenDigests) -> Digests:
    def digests(encrypted: list[str]) -> list[str | None]:
        found = tokens.digests(encrypted)
        metrics.UNREADABLE_TOKENS.inc(found.count(None))
        return found

    return digests


def _count_refusal(refusal: Refusal) -> None:
    metrics.REFUSED_ROWS.labels(refusal.kind).inc()


@asynccontextmanager
async def _opened(gitlab: GitlabSettings, *, by_counter: bool) -> AsyncIterator[OwnThread[State]]:
    """Wait until no other bridge has the state; close it at the end."""

    def open_state() -> State:
        return State(gitlab.state, by_counter=by_counter, refused=_count_refusal)

    waits = False
    while True:
        thread = OwnThread("state", open_state)
        try:
            state = await thread.created()
            break
        except StateInUseError as error:
            thread.stop()
            if not waits:
                log.warning("waiting for another bridge to end", reason=str(error))
            waits = True
            await asyncio.sleep(LOCK_S)
    try:
        yield thread
    finally:
        await thread.run(lambda _: state.close())
        thread.stop()


async def _wait_for_topics(settings: Settings) -> tuple[int, bool]:
    """Wait for the topics; return the number of partitions, and if heartbeats have a topic."""
    found = await wait_until_ready("Kafka", settings.kafka, lambda: topics.check_topics(settings))
    if SOURCES not in found:
        log.warning("no heartbeats are sent", reason=f"the topic {SOURCES} is missing",
                    advice="create it with `projector topics`")  # fmt: skip
    return found[Topic.MEMBERSHIP], SOURCES in found


async def _settle(state: OwnThread[State]) -> NoReturn:
    while True:
        await asyncio.sleep(SETTLE_S)
        await state.run(State.settle)


@retry_outages
async def _watch(settings: Settings, partitions: int) -> None:
    """End the process once the topics have another number of partitions."""
    try:
        await topics.watch_topics(settings, partitions)
    except AccessError as refused:
        # Kafka let this bridge in at its start. The right may come back, so it is an outage.
        raise KafkaError(str(refused)) from None


async def _check(source: Source, memory: Memory) -> NoReturn:
    await source.ready.wait()
    await check_forever(memory)


async def _prune(source: Source, memory: Memory, dsn: str) -> NoReturn:
    await source.ready.wait()
    await prune_forever(memory, dsn)


async def _vouch(
    source: Source,
    memory: Memory,
    sender: Sender,
    beats: SourceHeartbeats | None,
    audit: Audit | None,
) -> None:
    """Send heartbeats, once the audit has repaired what a lost state has left behind."""
    if audit:
        await source.ready.wait()
        await audit(memory, sender)
        await lost_state.end_audit(memory)
        log.info("heartbeats begin after the audit", advice="from now on run without --audit")
    if beats:
        await beats.run()
    await asyncio.Event().wait()


def _report(error: Exception) -> None:
    """Log the reason of the end at once: the process may be ended before it comes to print it."""
    # The text of an error in this program may hold anything.
    reason = str(error) if isinstance(error, OperatorError) else type(error).__name__
    log.error("the bridge cannot go on", reason=reason)


async def _until_one_fails(works: list[Any]) -> None:
    tasks = [asyncio.create_task(refuse_stray_cancellation(work)) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except asyncio.CancelledError:
        _exit_within(HARD_EXIT_S, 0)
        raise
    except Exception as error:
        _report(error)
        _exit_within(HARD_EXIT_AFTER_ERROR_S, 2 if isinstance(error, OperatorError) else 1)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
