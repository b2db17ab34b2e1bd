"""A rebuild of some partitions: read and compared together, put in place one after the other."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Final, NamedTuple, NoReturn, TypeVar

from msgspec import Struct

from projector.clients import redis_client, redis_servers
from projector.clients.redis_servers import RedisServers
from projector.config.settings import Settings
from projector.domain.facts import AnyFact
from projector.domain.projection import Policy
from projector.errors import HistoryLostError, RebuildFailedError, RebuildLossError, SnapshotError
from projector.events.model import Topic
from projector.kafka import topics
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import RangeReader
from projector.operators.rebuild import rebuilt_facts, takeover
from projector.operators.rebuild.rebuilt_facts import FactChange, Rebuilt
from projector.operators.rebuild.takeover import RebuildClients
from projector.operators.snapshot import Snapshot
from projector.operators.verify import comparison
from projector.operators.verify.comparison import Findings, Verifier
from projector.operators.verify.differences import Difference
from projector.store import partition_state
from projector.store.partition_count import read_partition_count
from projector.store.partition_state import PartitionState
from projector.worker.owner import cancel_until_done
from projector.worker.sources import create_sources

T = TypeVar("T")

# Workers with an alarm claim every 15 s, so one of a few attempts is between two of theirs.
ATTEMPTS: Final = 3
MAX_LOSSES_SHOWN: Final = 5
# Partitions read and compared at once: each comparison waits a second for events on their way.
# Bounds the memory, since each holds the facts of its partition twice.
TOGETHER: Final = 8


class Options(NamedTuple):
    """The options of a rebuild: compare only; go on although Kafka has lost events."""

    dry_run: bool
    accept_loss: bool


class Loss(Struct, frozen=True, kw_only=True):
    """History of a partition that Kafka no longer has."""

    partition: int
    what: str = "loss"
    reason: str


class NotCompared(Struct, frozen=True, kw_only=True):
    """A partition whose checkpoint cannot be compared."""

    partition: int
    what: str = "not compared"
    reason: str


class FactDifference(Struct, frozen=True, kw_only=True):
    """A fact that differs between the checkpoint and the topics; None where it is missing."""

    partition: int
    what: str
    key: str
    stored: AnyFact | None
    rebuilt: AnyFact | None


class ViewDifference(NamedTuple):
    """A token whose record differs from the rebuilt view; not `settled` if it may be newer."""

    difference: Difference
    settled: bool


class InPlace(Struct, frozen=True, kw_only=True):
    """A partition whose rebuilt facts are in place; `claimed` if a worker has it since."""

    partition: int
    what: str = "in place"
    facts: int
    claimed: bool


Finding = Loss | NotCompared | FactDifference | ViewDifference | InPlace
Report = Callable[[Finding], object]
# Called with a partition and the number of its events; its context is called with those read.
Reading = Callable[[int, int], AbstractContextManager[Callable[[int], object]]]


class Output(NamedTuple):
    """Takes what a rebuild finds.

    Called with 1: `check` once the topics of a partition are checked for losses, and `advance`
    after all of a partition.
    """

    report: Report
    reading: Reading
    advance: Callable[[int], object] = lambda _: None
    check: Callable[[int], object] = lambda _: None


class Counts(Struct):
    """The losses, differing facts, differing views and compared tokens of a rebuild."""

    losses: int = 0
    facts: int = 0
    views: int = 0
    tokens: int = 0


@asynccontextmanager
async def connect_clients(settings: Settings) -> AsyncIterator[RebuildClients]:
    """Connect to Redis and Kafka; raises `RedisError`, `KafkaError` and `OperatorError`."""
    server = RedisServers()
    redis = redis_client.create_redis(settings, server)
    reader, dead_letters = RangeReader(settings), DeadLetterProducer(settings)
    reading: list[asyncio.Task[NoReturn]] = []
    try:
        await redis_servers.refuse_eviction(redis, settings.redis_place)
        count = (await topics.check_topics(settings))[Topic.MEMBERSHIP]
        topics.refuse_changed_partitions(
            settings, count, await read_partition_count(redis) or count
        )
        policy = Policy(
            count,
            settings.minimum_level,
            settings.tombstone_retention_ms,
            settings.sweep_interval,
            settings.max_view_bytes,
        )
        await reader.start()
        await dead_letters.start()
        if sources := create_sources(settings, count, reader):
            reading.append(asyncio.create_task(sources.run()))
        yield RebuildClients(redis, server, reader, dead_letters, policy, sources=sources)
    finally:
        await cancel_until_done(reading)
        await dead_letters.stop()
        await reader.stop()
        await redis.aclose()


async def rebuild_partitions(
    clients: RebuildClients,
    partitions: Iterable[int],
    options: Options,
    output: Output,
) -> Counts:
    """Rebuild the partitions; report the findings of one after the other.

    Raises `RedisError`, `KafkaError`, and `RebuildLossError` before anything is read if Kafka has
    lost events and the loss is not accepted.
    """
    states = await _read_states(clients, partitions, options)
    losses = await _find_losses(clients, states, output)
    _refuse_losses(losses, options)
    counts, slots = Counts(), asyncio.Semaphore(TOGETHER)

    async def compare(partition: int) -> PartitionRun:
        await slots.acquire()
        run = PartitionRun(clients, partition, states[partition], counts)
        await run.compare(losses[partition], output.reading)
        return run

    comparing = deque(asyncio.create_task(compare(partition)) for partition in states)
    try:
        while comparing:
            await _finish(await comparing[0], options, output.report)
            # The run is dropped with its task, and with it the facts of its partition.
            comparing.popleft()
            slots.release()
            output.advance(1)
    finally:
        await cancel_until_done(comparing)
        # Takes the errors of the others, or asyncio would log each.
        await asyncio.gather(*comparing, return_exceptions=True)
    return counts


async def _read_states(
    clients: RebuildClients, partitions: Iterable[int], options: Options
) -> dict[int, PartitionState | None]:
    """Read the partitions' states; refuse those of other sources, unless nothing is written."""
    states = await _at_once(
        partitions, lambda p: partition_state.read_partition_state(clients.redis, p)
    )
    if not options.dry_run:
        names = clients.sources.names if clients.sources else ()
        for partition, state in states.items():
            if state:
                partition_state.refuse_other_sources(partition, state, names)
    return states


async def _find_losses(
    clients: RebuildClients, states: Mapping[int, PartitionState | None], output: Output
) -> dict[int, list[str]]:
    async def find(partition: int) -> list[str]:
        found = await rebuilt_facts.find_losses(clients.reader, partition, states[partition])
        output.check(1)
        return found

    return await _at_once(states, find)


async def _at_once(partitions: Iterable[int], ask: Callable[[int], Awaitable[T]]) -> dict[int, T]:
    """Ask about every partition, `TOGETHER` of them at a time."""
    slots = asyncio.Semaphore(TOGETHER)

    async def one(partition: int) -> T:
        async with slots:
            return await ask(partition)

    asking = {partition: asyncio.create_task(one(partition)) for partition in partitions}
    try:
        return dict(zip(asking, await asyncio.gather(*asking.values()), strict=True))
    finally:
        await cancel_until_done(asking.values())


async def _finish(run: "PartitionRun", options: Options, report: Report) -> None:
    for finding in run.found:
        report(finding)
    if not options.dry_run:
        report(await run.put_in_place(options))


def _refuse_losses(losses: dict[int, list[str]], options: Options) -> None:
    found = [f"partition {p}: {reason}" for p, reasons in losses.items() for reason in reasons]
    if found and not options.accept_loss and not options.dry_run:
        more = len(found) - MAX_LOSSES_SHOWN
        shown = "; ".join(found[:MAX_LOSSES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise RebuildLossError(
            f"{shown}. Grants of those events would be missing, and users who were blocked would "
            "count as active. To accept that, add --accept-loss; then feed the present state"
        )


class PartitionRun:
    """The rebuild of one partition; `found` are the findings of its comparison."""

    def __init__(
        self,
        clients: RebuildClients,
        partition: int,
        state: PartitionState | None,
        counts: Counts,
    ) -> None:
        self._clients = clients
        self._partition = partition
        self._state = state
        self._counts = counts
        self.found: list[Finding] = []
        self._rebuilt = Rebuilt(partition, clients.policy, clients.reader)
        self._verifier = Verifier(clients.redis, clients.policy.view_rules)
        self._lost_jobs = 0

    async def compare(self, losses: list[str], reading: Reading) -> None:
        """Read the partition's topics, and compare them with the checkpoint and the views."""
        self.found += [Loss(partition=self._partition, reason=reason) for reason in losses]
        self._counts.losses += len(losses)
        if self._state:
            rules = self._clients.policy.rules
            partition_state.refuse_other_rules(self._partition, self._state, rules)
        with self._naming_losses():
            await self._read(reading)
            await self._compare()

    async def put_in_place(self, options: Options) -> InPlace:
        """Claim the partition with the rebuilt facts, and serve it until a worker claims it."""
        self._refuse_lost_jobs(options)
        with self._naming_losses():
            return await self._put_in_place()

    @contextmanager
    def _naming_losses(self) -> Iterator[None]:
        try:
            yield
        except HistoryLostError as loss:
            raise RebuildLossError(f"partition {self._partition}: {loss}") from None

    def _refuse_lost_jobs(self, options: Options) -> None:
        if self._lost_jobs and not options.accept_loss:
            raise RebuildLossError(
                f"partition {self._partition}: job-lifecycle no longer has the start of "
                f"{self._lost_jobs} jobs that still run; their tokens would end. Check that "
                "the topic keeps its records for 60 days. To end those tokens, add --accept-loss"
            )

    async def _read(self, reading: Reading) -> None:
        reader = self._clients.reader
        ends, reported = await rebuilt_facts.find_ends(reader, self._partition, self._state)
        await self._rebuilt.begin(reported)
        events = sum(max(0, ends[topic] - begin) for topic, begin in self._rebuilt.next.items())
        with reading(self._partition, events) as advance:
            await self._rebuilt.read(ends, advance)

    # comparing

    async def _compare(self) -> None:
        looks: list[dict[str, FactChange]] = []
        try:
            views = await self._compare_views(looks)
            if len(looks) == 1:
                await asyncio.sleep(comparison.PAUSE_S)
                await self._look(looks)
        except SnapshotError as error:
            self.found.append(NotCompared(partition=self._partition, reason=error.reason))
            self._counts.facts += 1
            return
        self._report_facts(*looks[-2:])
        self._report_views(views)

    async def _compare_views(self, looks: list[dict[str, FactChange]]) -> Findings:
        """Compare the stored views with the rebuilt facts; each look at the facts is kept."""
        rebuilt = self._rebuilt.projection.facts
        first = await self._look(looks)
        tokens = [*first.facts.view_ids()]

        async def look() -> Snapshot:
            return (await self._look(looks))._replace(facts=rebuilt)

        return await self._verifier.compare(first._replace(facts=rebuilt), tokens, look)

    async def _look(self, looks: list[dict[str, FactChange]]) -> Snapshot:
        """Read the checkpoint, read on to its offsets, and append the facts that differ then."""
        look, rebuilt = await self._verifier.look(self._partition), self._rebuilt
        offsets = look.state.offsets
        ends = {topic: end for topic, end in offsets.items() if topic in rebuilt.reported}
        await rebuilt.read(ends, lambda _: None)
        retention_ms = self._clients.policy.tombstone_retention_ms
        # By the earlier of two clocks: by a wrong one, lost jobs would count as expired.
        now = min(look.now, int(time.time() * 1000))
        ours, theirs = look.facts, rebuilt.projection.facts
        changes = rebuilt_facts.changed_facts(ours, theirs, now, retention_ms)
        looks.append({change.key: change for change in changes})
        return look

    def _report_facts(self, before: dict[str, FactChange], last: dict[str, FactChange]) -> None:
        """Report facts that differ alike in the last two looks; events explain all others."""
        for key, change in last.items():
            if key in before and before[key].stored == change.stored:
                self._counts.facts += 1
                self._lost_jobs += rebuilt_facts.is_lost_job(change, self._rebuilt.beginnings)
                self.found.append(
                    FactDifference(
                        partition=self._partition, what=f"fact {_kind(change)}", key=key,
                        stored=change.stored, rebuilt=change.rebuilt,
                    )
                )  # fmt: skip

    def _report_views(self, found: Findings) -> None:
        rows = [ViewDifference(each, settled=True) for each in found.differences]
        rows += [ViewDifference(each, settled=False) for each in found.unsettled]
        rows.sort(key=lambda row: (not row.difference.grants_more, row.difference.job or 0))
        self.found += rows
        self._counts.views += len(found.differences) + found.more
        self._counts.tokens += found.tokens

    # putting in place

    async def _put_in_place(self) -> InPlace:
        for _ in range(ATTEMPTS):
            owner = takeover.create_owner(self._rebuilt, self._clients)
            claimed = await takeover.serve(owner, self._clients)
            if owner.is_serving:
                facts = len(self._rebuilt.projection.facts)
                return InPlace(partition=self._partition, facts=facts, claimed=claimed)
        raise RebuildFailedError(
            f"partition {self._partition} was claimed by workers again and again; stop the "
            "workers, or try again at a quiet hour"
        )


def _kind(change: FactChange) -> str:
    if change.stored is None:
        return "missing"
    return "extra" if change.rebuilt is None else "different"
