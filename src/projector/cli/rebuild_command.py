"""`projector rebuild`: facts and views computed anew from the topics, compared, put in place."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, NamedTuple
from uuid import uuid4

import msgspec
import typer
from redis.asyncio import Redis
from rich.progress import Progress

from projector.cli.options import AsJson, Partitions, chosen
from projector.cli.terminal import FINDING, as_json, load_settings, progress_bar, run_command
from projector.cli.verify_command import as_text
from projector.clients import redis_client as connections
from projector.clients import redis_servers
from projector.config.settings import Settings
from projector.domain.projection import Policy
from projector.errors import HistoryLostError, RebuildFailedError, RebuildLossError, SnapshotError
from projector.events.model import Topic
from projector.kafka import topics
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.range_reader import RangeReader
from projector.log import escape_control_chars
from projector.operators import rebuild
from projector.operators.rebuild import FactChange, Rebuilt, Successor
from projector.operators.snapshot import Snapshot
from projector.operators.verify import PAUSE_S, Findings, Verifier
from projector.operators.verify_run import DifferenceRow, Outcome
from projector.store import partition_state
from projector.store.partition_count import read_partition_count
from projector.store.partition_state import PartitionState
from projector.store.partition_store import PartitionStore

# Workers with an alarm claim now and then; between two of their attempts there is time.
ATTEMPTS: Final = 3


class Options(NamedTuple):
    """What was asked for on the command line."""

    dry_run: bool
    accept_loss: bool


def rebuild_partitions(
    partition: Partitions = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and compare; put nothing in place.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Go on from what the topics have, where they have lost events."
        ),
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Compute facts and views anew from the beginning of the topics, and put them in place.

    One partition after the other: read beside the running worker, compared with the checkpoint and
    with the views, then claimed, written and served until a worker claims it again. Lookups are
    answered all the while. Use the settings that the workers have. Each step is in
    docs/guarantees.md.

    Where Kafka has lost events (an alarm says `history lost`), the rebuilt facts lack what only
    those events said: grants may be missing, and users who were blocked count as active. So that
    is refused unless you say --accept-loss; feed upstream's present state afterwards.

    Exits with 0 when everything is in place (with --dry-run: when nothing differs); with 1 when
    --dry-run finds differences; with 2 when events are lost; with 3 when Kafka or Redis cannot be
    reached.

    \b
    projector rebuild --dry-run
    projector rebuild --partition 15
    projector rebuild --accept-loss --json
    """
    settings = load_settings()
    options = Options(dry_run, accept_loss)
    counts = run_command(settings, _rebuild(settings, partition, options, as_json_))
    if dry_run:
        said = (
            f"{counts['tokens']} tokens and all facts compared with the topics: "
            f"{counts['facts']} facts and {counts['views']} views differ"
        )
        typer.echo(said, err=as_json_)
    if dry_run and (counts["facts"] or counts["views"] or counts["losses"]):
        raise typer.Exit(FINDING)


async def _rebuild(
    settings: Settings, partitions: list[int] | None, options: Options, json: bool
) -> Counter[str]:
    async with _tools(settings) as tools:
        wanted = chosen(partitions, tools.policy.partitions)
        states = {p: await partition_state.read_partition_state(tools.redis, p) for p in wanted}
        lost = {p: await rebuild.losses(tools.source, p, states[p]) for p in wanted}
        _refuse_losses(lost, options)
        counts: Counter[str] = Counter()
        with progress_bar() as bar:
            for partition in wanted:
                work = _Rebuilding(tools, partition, states[partition], bar, json)
                counts += await work.run(lost[partition], options)
    return counts


def _refuse_losses(lost: dict[int, list[str]], options: Options) -> None:
    said = [f"partition {p}: {loss}" for p, losses in lost.items() for loss in losses]
    if said and not options.accept_loss and not options.dry_run:
        shown = "; ".join(said[:5]) + (f"; and {len(said) - 5} more" if len(said) > 5 else "")
        raise RebuildLossError(
            f"{shown}. What only those events said would be gone, and users who were blocked would "
            "count as active. If that is so, say --accept-loss, and feed the present state after it"
        )


class _Tools(NamedTuple):
    """What rebuilding works with."""

    redis: Redis
    server: redis_servers.RedisServers
    source: RangeReader
    dead_letters: DeadLetterProducer
    policy: Policy


@asynccontextmanager
async def _tools(settings: Settings) -> AsyncIterator[_Tools]:
    """Redis and Kafka; raises `RedisError`, `KafkaError`, and what `topics.check` raises."""
    server = redis_servers.RedisServers()
    redis = connections.create_redis(settings, server)
    source, dead_letters = RangeReader(settings), DeadLetterProducer(settings)
    try:
        await redis_servers.refuse_eviction(redis, settings.redis_place)
        count = (await topics.check_topics(settings))[Topic.MEMBERSHIP]
        topics.refuse_changed_partitions(
            settings, count, await read_partition_count(redis) or count
        )
        policy = Policy(
            count, settings.minimum_level, settings.tombstone_retention_ms, settings.sweep_interval
        )
        await source.start()
        await dead_letters.start()
        yield _Tools(redis, server, source, dead_letters, policy)
    finally:
        await dead_letters.stop()
        await source.stop()
        await redis.aclose()


class _Rebuilding:
    """One partition on its way."""

    def __init__(
        self, tools: _Tools, partition: int, state: PartitionState | None, bar: Progress, json: bool
    ) -> None:  # fmt: skip
        self._tools = tools
        self._partition = partition
        self._state = state
        self._bar = bar
        self._json = json
        self._rebuilt = Rebuilt(partition, tools.policy, tools.source)
        self._counts: Counter[str] = Counter()
        self._lost_jobs = 0

    async def run(self, losses: list[str], options: Options) -> Counter[str]:
        """Read, compare, put in place; how many facts and views differ, and losses there are."""
        for loss in losses:
            self._say({"partition": self._partition, "what": "loss", "reason": loss}, loss)
        self._counts["losses"] += len(losses)
        if self._state:
            partition_state.refuse_other_rules(
                self._partition, self._state, self._tools.policy.rules
            )
        try:
            await self._read()
            await self._compare()
            if not options.dry_run:
                self._refuse_lost_jobs(options)
                await self._replace()
        except HistoryLostError as loss:
            raise RebuildLossError(f"partition {self._partition}: {loss}") from None
        return self._counts

    def _refuse_lost_jobs(self, options: Options) -> None:
        if self._lost_jobs and not options.accept_loss:
            raise RebuildLossError(
                f"partition {self._partition}: job-lifecycle no longer has the start of "
                f"{self._lost_jobs} jobs that still run; their tokens would end. Does it keep its "
                "records for 60 days? If that is so, say --accept-loss"
            )

    async def _read(self) -> None:
        ends, told = await rebuild.known(self._tools.source, self._partition, self._state)
        await self._rebuilt.begin(told)
        events = sum(max(0, ends[topic] - begin) for topic, begin in self._rebuilt.next.items())
        task = self._bar.add_task(f"partition {self._partition}", total=events)
        await self._rebuilt.read(ends, lambda count: self._bar.advance(task, count))
        self._bar.remove_task(task)

    # comparing

    async def _compare(self) -> None:
        verifier = Verifier(self._tools.redis, self._tools.policy.minimum_level)
        found: list[dict[str, FactChange]] = []
        try:
            first = await self._look(verifier, found)
            tokens = [*first.facts.tokens()]
            ours = self._rebuilt.projection.facts

            async def look() -> Snapshot:
                return (await self._look(verifier, found))._replace(facts=ours)

            changes = await verifier.compare(first._replace(facts=ours), tokens, look)
            if len(found) == 1:
                await asyncio.sleep(PAUSE_S)
                await self._look(verifier, found)
        except SnapshotError as error:
            reason = f"the checkpoint cannot be compared: {error}"
            self._say(
                {"partition": self._partition, "what": "not compared", "reason": str(error)}, reason
            )
            self._counts["facts"] += 1
            return
        self._report_facts(found)
        self._report_views(changes)

    async def _look(self, verifier: Verifier, found: list[dict[str, FactChange]]) -> Snapshot:
        """The checkpoint, once the rebuilt facts are as far, and which facts differ then."""
        look = await verifier.look(self._partition)
        told = self._rebuilt.told
        ends = {topic: end for topic, end in look.state.offsets.items() if topic in told}
        await self._rebuilt.read(ends, lambda _: None)
        retention, ours = self._tools.policy.tombstone_retention_ms, self._rebuilt.projection.facts
        changed = rebuild.changed_facts(look.facts, ours, look.now, retention)
        found.append({change.key: change for change in changed})
        return look

    def _report_facts(self, found: list[dict[str, FactChange]]) -> None:
        """Those that differ in the same way in the last two looks: all others were on their way."""
        before, last = found[-2:]
        for key, change in last.items():
            if key in before and before[key].stored == change.stored:
                self._counts["facts"] += 1
                self._lost_jobs += rebuild.is_lost_job(change, self._rebuilt.beginnings)
                self._say(_fact_row(self._partition, change), _fact_told(self._partition, change))

    def _report_views(self, changes: Findings) -> None:
        rows = [DifferenceRow.of(each, Outcome.CHANGES) for each in changes.differences]
        rows += [DifferenceRow.of(each, Outcome.NOT_SETTLED) for each in changes.unsettled]
        rows.sort(key=lambda row: (not row.over_grant, row.job or 0))
        for row in rows:
            self._say(row, as_text(row))
        self._counts["views"] += len(changes.differences) + changes.more
        self._counts["tokens"] += changes.tokens

    # putting in place

    async def _replace(self) -> None:
        for _ in range(ATTEMPTS):
            identity = f"rebuild-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
            redis, server = self._tools.redis, self._tools.server
            store = PartitionStore(redis, server, self._partition, identity)
            successor = Successor(self._rebuilt, store, redis, self._tools.dead_letters)
            claimed = await rebuild.serve(successor, redis)
            if successor.is_serving:
                self._sum_up(claimed)
                return
        raise RebuildFailedError(
            f"partition {self._partition} is claimed by others again and again; try again"
        )

    def _sum_up(self, claimed: bool) -> None:
        facts = len(self._rebuilt.projection.facts)
        said = f"partition {self._partition}: {facts} facts in place, " + (
            "and a worker has claimed it"
            if claimed
            else "but no worker has claimed it: start one, or its lookups get 503"
        )
        row = {"partition": self._partition, "what": "in place", "facts": facts, "claimed": claimed}
        self._say(row, said)

    def _say(self, row: dict[str, Any] | DifferenceRow, said: str) -> None:
        typer.echo(as_json(row) if self._json else escape_control_chars(said))


def _fact_row(partition: int, change: FactChange) -> dict[str, Any]:
    return {
        "partition": partition, "what": f"fact {_what(change)}", "key": change.key,
        "stored": msgspec.to_builtins(change.stored),
        "rebuilt": msgspec.to_builtins(change.rebuilt),
    }  # fmt: skip


def _what(change: FactChange) -> str:
    if change.stored is None:
        return "missing"
    return "extra" if change.rebuilt is None else "different"


def _fact_told(partition: int, change: FactChange) -> str:
    stored, rebuilt = (
        "nothing" if fact is None else msgspec.json.encode(fact).decode()
        for fact in (change.stored, change.rebuilt)
    )
    return (
        f"fact {_what(change)}: partition {partition}, {change.key}: the checkpoint has {stored}, "
        f"the topics say {rebuilt}"
    )
