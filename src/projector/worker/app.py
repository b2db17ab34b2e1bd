"""The worker process: clients, owners and the Faust app, wired together until a signal."""

import asyncio
import functools
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn
from uuid import uuid4

import structlog
from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from projector import tracing
from projector.clients import redis_client, redis_servers
from projector.clients.redis_access import warn_of_open_server
from projector.clients.retry import retry_outages, wait_until_ready
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.domain.projection import Policy
from projector.errors import AccessError, OperatorError, WebPortError
from projector.events.model import Topic
from projector.kafka import topics
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import RangeReader
from projector.ports import LOOPBACK, port_obstacle
from projector.process import refuse_stray_cancellation, until_signalled
from projector.store.partition_count import agree_on_partitions, restore_partition_count
from projector.store.partition_stamps import PartitionStamps
from projector.store.partition_store import PartitionStore
from projector.worker.faust_app import create_app
from projector.worker.owner import Owner
from projector.worker.owner_group import OwnerGroup
from projector.worker.sources import Sources, create_sources
from projector.worker.sweep import OrphanScan
from projector.worker.timing import Moments, Timing

log = structlog.get_logger()

NewOwner = Callable[[int], Owner]

# A frozen broker can hang Faust's shutdown for minutes; checkpoints make a hard exit safe.
HARD_EXIT_S: Final = 15.0
# From the end of a session until the next stamp: a heartbeat of the group's other members, which is
# 1 s, and a claim of some hundred thousand facts.
CLAIM_S: Final = 3.0


async def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; raise the error that makes work impossible."""
    _check_web_port(settings)
    _warn_of_late_claims(settings)
    tracing.start("projector-worker")
    await until_signalled(_work(settings))
    log.info("worker stopped")


async def _work(settings: Settings) -> None:
    timing = Timing()
    async with _connected(settings, timing) as (policy, redis, reader, sources, new_owner):
        owners = OwnerGroup(new_owner, timing)
        scan = OrphanScan(redis, settings.sweep_interval, owners.check_orphan)
        background = {
            asyncio.create_task(refuse_stray_cancellation(work))
            for work in (
                _watch(settings, policy.partitions),
                scan.run(),
                _keep_partition_count(redis, policy.partitions, timing),
                *([sources.run()] if sources else []),
            )
        }
        # Beside the claims: no partition waits for it.
        report = asyncio.create_task(_report_risks(settings))
        try:
            async with _delivering(settings, owners, reader, policy.partitions) as app:
                await _until_broken(app, {owners.failed, *background})
        finally:
            for task in (report, *background):
                task.cancel()


async def _until_broken(app: Any, failures: set[asyncio.Future[None]]) -> None:
    """Raise the first error that makes work impossible; never return."""
    while not app.should_stop:
        done, _ = await asyncio.wait(failures, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        for failure in done:
            failure.result()
    raise RuntimeError("Faust stopped by itself; its log says why")


def _check_web_port(settings: Settings) -> None:
    port, host = settings.worker_web_port, settings.worker_web_host
    if (port or host != LOOPBACK) and (found := port_obstacle(port, host)):
        names = " and ".join(variable_name(name) for name in ("worker_web_host", "worker_web_port"))
        raise WebPortError(f"{found}; {names} choose another, with the port 0 a free one")


def _warn_of_late_claims(settings: Settings) -> None:
    """Warn if the partitions of a worker that crashes grow stale before another claims them."""
    if settings.session_timeout + CLAIM_S > settings.max_staleness:
        log.warning(
            "after a crash lookups will get 503", session_timeout=settings.session_timeout,
            claim=CLAIM_S, max_staleness=settings.max_staleness,
            advice=f"{variable_name('session_timeout')} and {CLAIM_S:g} s should fit "
            f"{variable_name('max_staleness')}; docs/operations.md has the price of each",
        )  # fmt: skip


@retry_outages
async def _watch(settings: Settings, partitions: int) -> None:
    try:
        await topics.watch_topics(settings, partitions)
    except AccessError as refused:
        # Kafka let this worker in at its start. The right may come back, so it is an outage.
        raise KafkaError(str(refused)) from None


async def _keep_partition_count(redis: Redis, partitions: int, timing: Timing) -> NoReturn:
    """Restore the number of partitions in Redis until cancelled: without it no API answers."""
    restore = retry_outages(restore_partition_count)
    while True:
        await restore(redis, partitions)
        await asyncio.sleep(timing.restore_count_s)


@asynccontextmanager
async def _connected(
    settings: Settings, timing: Timing
) -> AsyncIterator[tuple[Policy, Redis, RangeReader, Sources | None, NewOwner]]:
    """Wait for Redis and Kafka, and connect all that an owner works with."""
    server = redis_servers.RedisServers()
    redis = redis_client.create_redis(settings, server)
    stamps, moments = PartitionStamps(redis, server), Moments(timing.probe_interval_s)
    policy = await _policy(settings, redis)
    reader, dead_letters = RangeReader(settings), DeadLetterProducer(settings)
    sources = create_sources(settings, policy.partitions, reader)
    identity = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        await wait_until_ready("Kafka", settings.kafka, reader.start)
        await wait_until_ready("Kafka", settings.kafka, dead_letters.start)

        def new_owner(partition: int) -> Owner:
            store = PartitionStore(redis, server, partition, identity, stamps)
            return Owner(
                partition, policy, store, reader, dead_letters,
                timing=timing, moments=moments, sources=sources,
            )  # fmt: skip

        yield policy, redis, reader, sources, new_owner
    finally:
        await dead_letters.stop()
        await reader.stop()
        await redis.aclose()


async def _policy(settings: Settings, redis: Redis) -> Policy:
    """Wait until topics and Redis are usable, and agree on the number of partitions."""
    place = settings.redis_place
    await wait_until_ready("Redis", place, lambda: redis_servers.refuse_eviction(redis, place))
    await wait_until_ready("Redis", place, lambda: warn_of_open_server(redis, settings))
    counts = await wait_until_ready("Kafka", settings.kafka, lambda: topics.check_topics(settings))
    partitions = counts[Topic.MEMBERSHIP]
    await wait_until_ready("Redis", place, lambda: _agree(redis, settings, partitions))
    return Policy(
        partitions,
        settings.minimum_level,
        settings.tombstone_retention_ms,
        settings.sweep_interval,
        settings.max_view_bytes,
    )


async def _report_risks(settings: Settings) -> None:
    """Log which topics may lose events; a check that fails ends no worker."""
    find = functools.partial(topics.find_risks, settings)
    try:
        risks = await wait_until_ready("Kafka", settings.kafka, find)
    except OperatorError as error:
        risks = [f"not checked: {error}"]
    for risk in risks:
        log.warning("topic at risk", reason=risk)


@asynccontextmanager
async def _delivering(
    settings: Settings, owners: OwnerGroup, reader: RangeReader, partitions: int
) -> AsyncIterator[Any]:
    with tempfile.TemporaryDirectory(prefix="projector-") as folder:
        app = create_app(settings, owners, folder, reader.follow)
        try:
            await app.start()
            log.info(
                "worker started", kafka=settings.kafka, redis=settings.redis_place,
                partitions=partitions,
                metrics=f"http://{settings.worker_web_host}:{app.conf.web_port}/metrics",
            )  # fmt: skip
            yield app
        finally:
            asyncio.get_running_loop().call_later(HARD_EXIT_S, _exit_hard)
            # The other workers learn of it by the group; the owners go on until they have claimed.
            await app.stop()
            await owners.hand_over(partitions)
            await owners.stop()


async def _agree(redis: Redis, settings: Settings, partitions: int) -> None:
    """Refuse another number of partitions in Redis than Kafka's; store it where it is missing."""
    stored = await agree_on_partitions(redis, partitions)
    topics.refuse_changed_partitions(settings, partitions, stored)


def _exit_hard() -> None:
    log.warning("hard exit", reason="a clean stop took too long; the checkpoint is safe")
    os._exit(1)
