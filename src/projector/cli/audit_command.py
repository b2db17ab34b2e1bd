"""`projector audit`: are the facts what upstream says?"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any, BinaryIO, Final, NamedTuple, TypeVar

import typer
from redis.asyncio import Redis

from projector.cli.options import AsJson, connected, progress_bar
from projector.cli.terminal import (
    FINDING,
    WRONG,
    as_json,
    fail,
    harmless,
    load_settings,
    open_input,
    refuse_lines,
    run_command,
)
from projector.clients import redis_batch
from projector.config.settings import Settings
from projector.domain import entities, fact_keys
from projector.errors import SnapshotError
from projector.events.model import Instant, Topic
from projector.events.timestamps import to_rfc3339
from projector.feed import producer
from projector.kafka import topics
from projector.operators import audit, snapshot
from projector.operators.audit import AUDITED_KINDS, AuditFinding, AuditScope, Export, FactMismatch
from projector.operators.audit_repair import Repair, RepairPlanner
from projector.operators.snapshot import Snapshot
from projector.store import partition_state
from projector.store.partition_count import require_partition_count
from projector.store.schema import PARTITIONS_KEY

T = TypeVar("T")

FED: Final = "fed"
NOTHING: Final = "nothing was compared"


class Wanted(NamedTuple):
    """What was asked for on the command line."""

    kinds: frozenset[str]
    roots: frozenset[str]
    taken: int | None
    skew_ms: int
    repair: bool


class Tally:
    """What was compared, and what came of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.roots: set[str] = set()
        self.kinds: set[str] = set()
        self.is_good = True

    def see(self, look: Snapshot, scope: AuditScope) -> None:
        """Note what the export is not held against."""
        for key, _ in look.facts.items():
            kind, root = fact_keys.kind_of(key), fact_keys.root_of(key)
            if kind in AUDITED_KINDS and kind not in scope.kinds:
                self.kinds.add(kind)
            elif kind in AUDITED_KINDS and root != "*" and root not in scope.roots:
                self.roots.add(root)


def audit_facts(  # noqa: PLR0913  one for each option
    snapshot: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT", help="The export: one CloudEvent (JSON) a line; - for stdin."
        ),
    ],
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="The export lists everything of this kind, and is held against nothing else; may "
            f"be repeated: {', '.join(AUDITED_KINDS)}. Unless given: the kinds that occur in it."
        ),
    ] = None,
    namespace: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID", min=1,
            help="The same for a root namespace. Unless given: those that occur in it.",
        ),
    ] = None,
    taken: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When the export was taken. Unless given: its earliest `time`."
        ),
    ] = None,
    clock_skew: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0,
            help="How far the exporter's clock may be from Kafka's; facts up to that much older "
            "than the export count as newer.",
        ),
    ] = 60.0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Feed what mends the facts, as events.")
    ] = False,
    as_json_: AsJson = False,
) -> None:  # fmt: skip
    """Compare the facts with an upstream export: missing, extra, different.

    SNAPSHOT has the lines that `feed` takes, of what there is: `*.set`, `job.started`,
    `agent.configured`. It counts as complete for the kinds and root namespaces that occur in it;
    whatever else the facts hold of those is extra.

    A fact whose event came after the export is newer, and no difference. Repairs rank at the
    export's moment: they never undo what came later, be it a revocation on its way. What an export
    must have is in docs/operations.md.

    Exits with 0 when all is equal, or every difference was fed; with 1 when there are differences
    (with --repair: that cannot be repaired); with 2 when a line is bad or there is none; with 3
    when Redis or Kafka cannot be reached.

    \b
    projector audit export.ndjson
    my-export --members | projector audit - --taken 2027-01-15T08:00:00Z --repair
    projector audit export.ndjson --kind job --json | jq 'select(.what == "extra")'
    """
    settings = load_settings()
    kinds = _understood("--kind", lambda: audit.kinds_named(kind or ()))
    moment = None if taken is None else _understood("--taken", lambda: Instant.parse(taken))
    roots = frozenset(map(str, namespace or ()))
    wanted = Wanted(kinds, roots, moment, int(clock_skew * 1000), repair)
    with open_input(snapshot) as source:
        tally = run_command(settings, _audit(settings, snapshot, source, wanted, as_json_))
    if not tally.is_good:
        raise typer.Exit(FINDING)


def _understood(option: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        fail(WRONG, f"{option}: {error}")


async def _audit(
    settings: Settings, name: str, source: BinaryIO, wanted: Wanted, json: bool
) -> Tally:
    async with connected(settings) as redis:
        partitions = await require_partition_count(redis)
        export, bad = audit.read_export(source, partitions)
        if bad:
            refuse_lines(name, bad, NOTHING)
        if not export.count:
            fail(WRONG, f"{name} holds no event", NOTHING)
        scope = AuditScope(
            wanted.kinds or frozenset(export.kinds), wanted.roots or frozenset(export.roots)
        )
        taken = export.taken if wanted.taken is None else wanted.taken
        if wanted.repair:
            await _refuse_unsafe(settings, redis, taken, wanted.skew_ms)
        auditor = _Auditor(settings, redis, export, scope, source)
        auditor.cutoff = None if taken is None else taken - wanted.skew_ms
        tally = await auditor.run(range(partitions), wanted.repair, json)
    _sum_up(tally, export, scope, taken, json)
    return tally


async def _refuse_unsafe(settings: Settings, redis: Redis, taken: int | None, skew_ms: int) -> None:
    """End the command where nothing tells what is newer than the export."""
    found = await topics.check_topics(settings)
    await topics.refuse_producers_time(settings)
    partitions = await require_partition_count(redis)
    topics.refuse_changed_partitions(settings, found[Topic.MEMBERSHIP], partitions)
    if taken is None:
        fail(WRONG, "not every line has a `time`; say with --taken when the export was taken")
    now = await redis_batch.server_time(redis, PARTITIONS_KEY)
    if taken > now + skew_ms:
        fail(WRONG, f"the export was taken at {to_rfc3339(taken)}, which is yet to come")
    if taken - skew_ms < now - settings.tombstone_retention_ms:
        fail(
            WRONG,
            f"the export was taken at {to_rfc3339(taken)}; removed things are remembered for "
            f"{settings.tombstone_retention:g} s (PROJECTOR_TOMBSTONE_RETENTION), and what was "
            "removed since could come back. Take a new one",
        )


class _Auditor:
    """Compares one partition after the other."""

    cutoff: int | None

    def __init__(
        self, settings: Settings, redis: Redis, export: Export, scope: AuditScope, source: BinaryIO
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._export = export
        self._scope = scope
        self._source = source
        self._tally = Tally()

    async def run(self, partitions: Iterable[int], repair: bool, json: bool) -> Tally:
        with progress_bar() as bar:
            for partition in bar.track(partitions, description="comparing"):
                try:
                    look = await snapshot.read_snapshot(self._redis, partition)
                except SnapshotError as error:
                    self._tally.is_good = False
                    _say(
                        {"partition": partition, "what": "not compared", "error": str(error)}, json
                    )
                    continue
                rules = {"tombstone_retention": self._settings.tombstone_retention_ms}
                partition_state.refuse_other_rules(partition, look.state, rules)
                self._tally.see(look, self._scope)
                await self._compare(look, repair, json)
        return self._tally

    async def _compare(self, look: Snapshot, repair: bool, json: bool) -> None:
        findings = []
        for finding in audit.compare_facts(self._export, self._scope, look, self.cutoff):
            self._tally.counts[finding.what] += 1
            if finding.what is not FactMismatch.NEWER:
                findings.append(finding)
        if not repair or self.cutoff is None:
            self._tally.is_good &= not findings
            for finding in findings:
                _say(_row(finding), json)
        elif findings:
            await self._mend(look, self.cutoff, findings, json)

    async def _mend(
        self, look: Snapshot, cutoff: int, findings: list[AuditFinding], json: bool
    ) -> None:
        mender = RepairPlanner(look, cutoff, self._settings.tombstone_retention_ms)
        repairs: list[Repair] = []
        async with producer.sending(self._settings) as put:
            for finding in findings:
                line = audit.line_at(self._source, finding.entry)
                repairs.append(mender.mend(finding, line))
                if message := repairs[-1].message:
                    await put(message)
        for finding, repair in zip(findings, repairs, strict=True):
            outcome = FED if repair.message else f"cannot be repaired: {repair.obstacle}"
            self._tally.counts["fed" if repair.message else "not fed"] += 1
            self._tally.is_good &= repair.message is not None
            _say(_row(finding) | {"outcome": outcome}, json)


# what is said


def _row(finding: AuditFinding) -> dict[str, Any]:
    entry, fact = finding.entry, finding.fact
    return {
        "partition": finding.partition,
        "key": finding.key,
        "what": finding.what,
        "line": entry.line if entry else None,
        "fields": {
            name: {"fact": ours, "export": theirs}
            for name, (ours, theirs) in finding.fields.items()
        },
        "topic": entities.TOPIC_OF_KIND[fact_keys.kind_of(finding.key)],
        "offset": fact.offset if fact else None,
        "timestamp": fact.timestamp if fact else None,
        "sequence": fact.sequence if fact else None,
    }


def _say(row: dict[str, Any], json: bool) -> None:
    typer.echo(as_json(row) if json else harmless(_told(row)))


def _told(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['what']}: partition {row['partition']}: {row['error']}"
    said = f"{row['what']}: {row['key']}"
    if row["line"] is not None:
        said += f", line {row['line']}"
    for name, values in row["fields"].items():
        said += f", {name} is {values['fact']!r} and not {values['export']!r}"
    if row["offset"] is not None:
        place = f"{row['topic']} partition {row['partition']}, offset {row['offset']}"
        said += f", by the event at {place}, of {to_rfc3339(row['timestamp'])}"
    return said + (f": {row['outcome']}" if "outcome" in row else "")


def _sum_up(tally: Tally, export: Export, scope: AuditScope, taken: int | None, json: bool) -> None:
    counts = tally.counts
    differing = ", ".join(
        f"{counts[w]} {w}"
        for w in (FactMismatch.MISSING, FactMismatch.EXTRA, FactMismatch.DIFFERENT)
    )
    moment = (
        "without its time, so nothing counts as newer"
        if taken is None
        else f"of {to_rfc3339(taken)}"
    )
    said = [
        f"{export.count} things in the export {moment}: {differing}, "
        f"{counts[FactMismatch.NEWER]} newer than the export",
        f"compared: {', '.join(sorted(scope.kinds))} of namespace {', '.join(sorted(scope.roots))}",
    ]
    if tally.kinds or tally.roots:
        said.append(f"not compared: {', '.join(_left_out(tally))}")
    if counts["fed"]:
        said.append(f"{counts['fed']} events fed; run audit again once they are applied")
    for line in said:
        typer.echo(harmless(line), err=json)


def _left_out(tally: Tally) -> list[str]:
    namespaces = [f"{len(tally.roots)} other namespaces"] if tally.roots else []
    return sorted(tally.kinds) + namespaces
