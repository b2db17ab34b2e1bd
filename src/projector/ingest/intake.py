"""The way of one request: token, media type, bounds, body, checks, Kafka, views."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from redis.asyncio import Redis
from starlette.requests import Request

from projector.clients.retry import outage_reason
from projector.config.settings import Settings
from projector.elapsed import elapsed
from projector.errors import ProjectorError
from projector.events.model import HEARTBEAT, KafkaRecord
from projector.feed.applied import Positions, wait_until_applied
from projector.ingest import metrics
from projector.ingest.admission import Admission
from projector.ingest.body import RequestBody
from projector.ingest.checks import Checks, Finding
from projector.ingest.feeder_file import FeederFile
from projector.ingest.feeders import Feeder, find_feeder
from projector.ingest.heartbeats import Heartbeats
from projector.ingest.http_events import Mode, mode_of, records_of
from projector.ingest.kafka_sends import KafkaSends
from projector.ingest.preferences import Preferences, parse_preferences
from projector.ingest.readiness import Readiness
from projector.ingest.refusals import (
    TOKEN_NEEDED,
    TOKEN_UNKNOWN,
    TOKENS_UNUSABLE,
    RefusedRequestError,
    unavailable,
)

log = structlog.get_logger()

# An event of so many bytes is checked on the event loop: a thread takes longer than the check. Of
# forty kinds of hostile bytes none took 2 ms, where those of 1 MiB take a second. A batch of this
# size may hold hundreds of wrong events, which take 50 ms, and headers have no such bound.
CHECKED_AT_ONCE_BYTES: Final = 2048
_OUTAGES: Final = (KafkaError, ProjectorError, OSError, TimeoutError)


class Reply(NamedTuple):
    """The answer to a request that was taken; without a body unless there is something to read."""

    status: int
    body: dict[str, Any] | None = None
    headers: dict[str, str] = {}  # noqa: RUF012  never changed


class Intake:
    """Takes requests with events."""

    def __init__(
        self, settings: Settings, tokens: FeederFile, readiness: Readiness, redis: Redis
    ) -> None:
        self._retention_ms = settings.tombstone_retention_ms
        self._tokens = tokens
        self._readiness = readiness
        self._redis = redis
        self._sends = KafkaSends(settings)
        self._heartbeats = Heartbeats(settings, self._sends)
        self._admission = Admission()
        # Many hostile bytes take seconds to check: in a thread, and one check of a token at a time.
        self._checking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._strangers = 0
        # Set once the process is to end.
        self.stopping = asyncio.Event()

    async def stop(self) -> None:
        """Disconnect from Kafka, once what is on its way is acknowledged or has failed."""
        await self._sends.stop()
        await self._heartbeats.stop()

    def find_feeder(self, request: Request) -> Feeder:
        """Return the feeder of the request's token; raises `RefusedRequestError`."""
        if self._tokens.fault:
            raise unavailable(TOKENS_UNUSABLE)
        scheme, _, given = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise RefusedRequestError(
                401, "a token is needed: Authorization: Bearer ...", TOKEN_NEEDED
            )
        feeder = find_feeder(self._tokens.feeders, given.strip().encode("latin-1"))
        if feeder is None:
            self._strangers = count = self._strangers + 1
            # At powers of two, so that no client can fill the log.
            if count & (count - 1) == 0:
                client = request.client.host if request.client else "unknown"
                log.warning("unknown token", client=client, refused=count)
            raise RefusedRequestError(401, "the token is not known", TOKEN_UNKNOWN)
        return feeder

    async def take(self, request: Request, body: RequestBody, feeder: Feeder) -> Reply:
        """Take the events of a request; return once Kafka has acknowledged all of them.

        Raises `RefusedRequestError`. Nothing is sent unless every event is good.
        """
        headers = request.headers.raw
        mode = mode_of(headers)
        length = body.length(mode)
        partitions = self._readiness.partitions
        with self._admission.admitted(feeder.name, length):
            content = await body.read(mode)
            # The token may have been removed while the body came.
            feeder = self.find_feeder(request)
            metrics.labelled(metrics.BYTES, feeder.name).inc(len(content))
            preferences = parse_preferences(headers)
            checks = Checks(feeder, self._retention_ms, strict=preferences.strict)
            records = partial(records_of, mode, headers, content, int(time.time() * 1000))
            if mode is Mode.STRUCTURED and len(content) <= CHECKED_AT_ONCE_BYTES:
                # The loop turns between two checks of requests that came together: one token's many
                # would hold up all others.
                await asyncio.sleep(0)
                _check(checks, records)
            else:
                async with self._checking[feeder.name]:
                    await asyncio.to_thread(_check, checks, records)
            _refuse_findings(checks, feeder)
            if checks.heartbeat:
                self._readiness.require_sources()
            positions, found = await self._send(checks, feeder, partitions)
            return await self._reply(positions, found, preferences)

    async def _send(
        self, checks: Checks, feeder: Feeder, partitions: int
    ) -> tuple[Positions, dict[str, Any]]:
        """Send all; return the positions behind the events, and what their feeder should read."""
        found: dict[str, Any] = {}
        try:
            positions = await self._sends.send(checks.events, partitions)
            if checks.heartbeat:
                offset = await self._heartbeats.send(checks.heartbeat, partitions)
                found["heartbeat"] = {"source": checks.heartbeat.source, "offset": offset}
        except MessageSizeTooLargeError:
            raise RefusedRequestError(413, "Kafka refuses an event as too large") from None
        except _OUTAGES as error:
            log.warning("events not acknowledged", feeder=feeder.name, reason=_reason(error))
            raise unavailable(
                "Kafka has not acknowledged every event; send the whole request again"
            ) from None
        _count(checks, feeder)
        if checks.warnings:
            found["warnings"] = _listed(checks.warnings)
        return positions, found

    async def _reply(
        self, positions: Positions, found: dict[str, Any], preferences: Preferences
    ) -> Reply:
        """Wait for the views, if the feeder prefers so; return the answer."""
        wait_s = preferences.wait_s
        if wait_s is None:
            return Reply(200 if found else 204, found or None)
        if await self._is_applied(positions, wait_s):
            applied = {"preference-applied": f"wait={wait_s}"}
            return Reply(200 if found else 204, found or None, applied)
        within = "when the ingest ended" if self.stopping.is_set() else f"within {wait_s} s"
        message = f"acknowledged by Kafka, but not all of it was in the views {within}"
        return Reply(202, {"message": message, **found})

    async def _is_applied(self, positions: Positions, wait_s: float) -> bool:
        """Wait for the views, but not while the process is to end."""
        applied = asyncio.ensure_future(self._wait_for_views(positions, wait_s))
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((applied, stopping), return_when=asyncio.FIRST_COMPLETED)
            return applied.done() and applied.result()
        finally:
            applied.cancel()
            stopping.cancel()

    async def _wait_for_views(self, positions: Positions, wait_s: float) -> bool:
        """Wait for views of the topics that Kafka has; without Kafka, return False."""
        deadline = elapsed() + wait_s
        try:
            topic_ids = await self._sends.topic_ids()
        except _OUTAGES:
            return False
        outages: set[str] = set()
        is_applied = await wait_until_applied(
            self._redis, positions, topic_ids, deadline - elapsed(),
            lambda error: outages.add(outage_reason(error)),
        )  # fmt: skip
        if outages and not is_applied:
            # The answer is the same 202 as where workers are behind.
            log.warning("wait for views in vain", reason="; ".join(sorted(outages)))
        return is_applied


def _check(checks: Checks, read: Callable[[], Sequence[KafkaRecord]]) -> None:
    for index, record in enumerate(read()):
        checks.add(index, record)


def _refuse_findings(checks: Checks, feeder: Feeder) -> None:
    for reason, findings in (("bad", checks.bad), ("forbidden", checks.forbidden)):
        metrics.labelled(metrics.REFUSED, feeder.name, reason).inc(len(findings))
    if checks.bad:
        raise RefusedRequestError(400, "nothing was sent", errors=_listed(checks.bad))
    if checks.forbidden:
        raise RefusedRequestError(403, "nothing was sent", errors=_listed(checks.forbidden))


def _listed(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [msgspec.structs.asdict(finding) for finding in findings]


def _count(checks: Checks, feeder: Feeder) -> None:
    types: defaultdict[str, int] = defaultdict(int)
    for event, _ in checks.events:
        types[event.type] += 1
    if checks.heartbeat:
        types[HEARTBEAT] += 1
    for name, count in types.items():
        metrics.labelled(metrics.EVENTS, feeder.name, name).inc(count)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
