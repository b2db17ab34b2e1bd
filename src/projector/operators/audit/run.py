"""A run of `projector audit`: partitions compared, repairs fed, a row for each finding."""

import time
from collections import Counter
from typing import Any, BinaryIO, Final, NamedTuple, Self

from msgspec import UNSET, Struct, UnsetType
from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.config.settings import Settings
from projector.domain import entities, fact_keys
from projector.errors import OperatorError, SnapshotError
from projector.events.model import Topic
from projector.events.timestamps import to_rfc3339
from projector.operators import snapshot
from projector.operators.audit import comparison
from projector.operators.audit.comparison import AuditFinding, AuditScope, Export, FactMismatch
from projector.operators.audit.repair import Repair, RepairPlanner
from projector.operators.snapshot import Snapshot
from projector.store import partition_state
from projector.store.partition_count import require_partition_count
from projector.store.schema import PARTITIONS_KEY

FED: Final = "fed"
PERHAPS_FED: Final = "perhaps fed: Kafka has not acknowledged it"
NOT_COMPARED: Final = "not compared"


class FieldValues(Struct, frozen=True):
    """A field of an entity: its value in the fact and in the export."""

    fact: Any
    export: Any


class FindingRow(Struct, frozen=True, kw_only=True):
    """An entity of which the facts and the export differ. Its JSON is public.

    `line` is the export's; `offset`, `timestamp` (ms) and `sequence` are the fact's. With
    `over_grant` the facts may grant what the export does not. `outcome` is there with `--repair`
    alone: "fed", whether it may be fed, or why no event repairs the fact.
    """

    partition: int
    key: str
    what: FactMismatch
    line: int | None
    fields: dict[str, FieldValues]
    topic: Topic
    offset: int | None
    timestamp: int | None
    sequence: int | None
    over_grant: bool
    outcome: str | UnsetType = UNSET

    @classmethod
    def of(cls, finding: AuditFinding, repair: Repair | None = None, sent: str = FED) -> Self:
        """Describe the finding, and the outcome of its repair: `sent`, if that is a message."""
        entry, fact = finding.entry, finding.fact
        outcome: str | UnsetType = UNSET
        if repair:
            outcome = sent if repair.message else f"cannot be repaired: {repair.obstacle}"
        return cls(
            partition=finding.partition,
            key=finding.key,
            what=finding.mismatch,
            line=entry.line if entry else None,
            fields={name: FieldValues(*values) for name, values in finding.fields.items()},
            topic=entities.TOPIC_OF_KIND[fact_keys.kind_of(finding.key)],
            offset=fact.offset if fact else None,
            timestamp=fact.timestamp if fact else None,
            sequence=fact.sequence if fact else None,
            over_grant=comparison.may_grant_more(finding),
            outcome=outcome,
        )


class NotComparedRow(Struct, frozen=True, kw_only=True):
    """A partition that could not be compared. Its JSON is public."""

    partition: int
    what: str = NOT_COMPARED
    error: str


AuditRow = FindingRow | NotComparedRow


class AuditRequest(NamedTuple):
    """An audit as the operator wants it.

    The export is in the file `source` and was `taken` then (ms), None if that is not known. The
    exporter's clock may differ from Kafka's by `skew_ms`.
    """

    export: Export
    scope: AuditScope
    source: BinaryIO
    taken: int | None
    skew_ms: int
    repair: bool

    @property
    def cutoff(self) -> int | None:
        """The time (ms) after which facts are newer than the export."""
        return None if self.taken is None else self.taken - self.skew_ms


class AuditRun:
    """Audits partition after partition, and counts.

    `left_out_kinds` and `left_out_roots` are those of facts that the export does not cover.
    `is_good` is False once a difference is left, or a partition could not be compared. Rows of
    repairs that were on their way when that ended are `perhaps_fed`.
    """

    def __init__(self, settings: Settings, redis: Redis, request: AuditRequest) -> None:
        self._settings = settings
        self._redis = redis
        self._request = request
        self.counts: Counter[FactMismatch] = Counter()
        self.fed = 0
        self.left_out_kinds: set[str] = set()
        self.left_out_roots: set[str] = set()
        self.is_good = True
        self.perhaps_fed: list[AuditRow] = []

    async def audit(self, partition: int) -> list[AuditRow]:
        """Compare the partition's facts with the export; feed repairs where asked to."""
        try:
            look = await snapshot.read_snapshot(self._redis, partition)
        except SnapshotError as error:
            self.is_good = False
            return [NotComparedRow(partition=partition, error=str(error))]
        rules = {"tombstone_retention": self._settings.tombstone_retention_ms}
        partition_state.refuse_other_rules(partition, look.state, rules)
        self._note_left_out(look)
        findings = self._compare(look)
        if self._request.repair and self._request.cutoff is not None:
            return await self._repair(look, self._request.cutoff, findings)
        self.is_good = self.is_good and not findings
        return [FindingRow.of(finding) for finding in findings]

    def _note_left_out(self, look: Snapshot) -> None:
        scope = self._request.scope
        for key, _ in look.facts.items():
            kind, root = fact_keys.kind_of(key), fact_keys.root_of(key)
            if kind in entities.AUDITED_KINDS and kind not in scope.kinds:
                self.left_out_kinds.add(kind)
            elif kind in entities.AUDITED_KINDS and not scope.covers_root(root):
                self.left_out_roots.add(root)

    def _compare(self, look: Snapshot) -> list[AuditFinding]:
        """Count all findings; return those that are not newer than the export."""
        asked = self._request
        findings = []
        for finding in comparison.compare_facts(asked.export, asked.scope, look, asked.cutoff):
            self.counts[finding.mismatch] += 1
            if finding.mismatch is not FactMismatch.NEWER:
                findings.append(finding)
        return findings

    async def _repair(
        self, look: Snapshot, cutoff: int, findings: list[AuditFinding]
    ) -> list[AuditRow]:
        """Feed an event for each finding that an event can repair."""
        if not findings:
            return []
        # Here, as a comparison without repairs does without Kafka's client.
        from projector.feed import producer  # noqa: PLC0415

        planner = RepairPlanner(look, cutoff, self._settings.tombstone_retention_ms)
        repairs: list[Repair] = []
        try:
            async with producer.sending(self._settings) as batch:
                for finding in findings:
                    line = comparison.line_at(self._request.source, finding.entry)
                    repairs.append(planner.plan(finding, line))
                    if message := repairs[-1].message:
                        await batch.send(message)
        except BaseException:
            tried = zip(findings, repairs, strict=False)
            self.perhaps_fed = [FindingRow.of(*each, PERHAPS_FED) for each in tried]
            raise
        fed = sum(repair.message is not None for repair in repairs)
        self.fed += fed
        self.is_good = self.is_good and fed == len(repairs)
        return [FindingRow.of(*each) for each in zip(findings, repairs, strict=True)]


async def refuse_unsafe_repair(settings: Settings, redis: Redis, request: AuditRequest) -> None:
    """Raise `OperatorError` if facts newer than the export could count as older."""
    from projector.kafka import topics  # noqa: PLC0415

    found = await topics.check_topics(settings)
    await topics.refuse_producers_time(settings)
    partitions = await require_partition_count(redis)
    topics.refuse_changed_partitions(settings, found[Topic.MEMBERSHIP], partitions)
    taken, skew_ms = request.taken, request.skew_ms
    if taken is None:
        raise OperatorError("not every line has a `time`; give the time of the export with --taken")
    now = await redis_batch.server_time(redis, PARTITIONS_KEY)
    if taken > now + skew_ms:
        raise OperatorError(
            f"the export was taken at {to_rfc3339(taken)}, which is yet to come; correct --taken"
        )
    # By the later of two clocks: a wrong one must not let an old export bring anything back.
    latest = max(now, int(time.time() * 1000))
    if taken - skew_ms < latest - settings.tombstone_retention_ms:
        raise OperatorError(
            f"the export was taken at {to_rfc3339(taken)}; removals are remembered for "
            f"{settings.tombstone_retention:g} s (PROJECTOR_TOMBSTONE_RETENTION), and what was "
            "removed since could come back. Take a new export"
        )
