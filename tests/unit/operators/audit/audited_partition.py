"""The facts of one partition, and an upstream that exports its entities."""

import io
import json
from typing import Any

from projector.domain.projection import Policy, Projection
from projector.events.model import KafkaRecord
from projector.operators.audit import comparison
from projector.operators.audit.comparison import AuditFinding, AuditScope, Export, FactMismatch
from projector.operators.audit.repair import RepairPlanner
from projector.operators.snapshot import Snapshot
from projector.store.partition_state import PartitionState
from projector.store.schema import Version
from tests import builders

DAY = 24 * 3600 * 1000
RETENTION = 7 * DAY
TAKEN = builders.NOW - 3600_000
BEFORE = TAKEN - 1000
AFTER = TAKEN + 1000
COMPANY = [
    builders.group(3), builders.project(7, 3), builders.member(1, group_id=3), builders.user(1),
    builders.agent(5, 7), builders.configured(5, projects=[{"id": 7}]),
    builders.shared_agent(8, 99, groups=[{"id": 3}]), builders.shared(6, 7),
    builders.started(9, 7),
]  # fmt: skip


class AuditedPartition:
    """One partition's facts, and an upstream that exports them."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.projection = Projection(0, Policy(1, 30, RETENTION))
        self.feed = builders.Feed()
        self.apply(*(messages or COMPANY))

    def apply(self, *messages: dict[str, Any], timestamp: int = BEFORE) -> None:
        for message in messages:
            assert self.projection.apply(self.feed(message, timestamp)) is None

    @property
    def look(self) -> Snapshot:
        state = PartitionState("me", Version(1, 1), {}, 0, None, None)
        return Snapshot(0, state, self.projection.facts, frozenset(), builders.NOW)

    def findings(
        self, *exported: dict[str, Any], kinds: str = "", cutoff: int | None = TAKEN
    ) -> list[AuditFinding]:
        export = exported_as(*exported)
        scope = AuditScope(frozenset(kinds.split() or export.kinds), frozenset(export.roots))
        return list(comparison.compare_facts(export, scope, self.look, cutoff))

    def repair(self, *exported: dict[str, Any], kinds: str = "") -> list[str]:
        """Apply the repairs as a worker does; return the obstacles to the others."""
        source = lines(*exported)
        obstacles = []
        planner = RepairPlanner(self.look, TAKEN, RETENTION)
        repairs = [
            planner.plan(finding, comparison.line_at(source, finding.entry))
            for finding in self.findings(*exported, kinds=kinds)
            if finding.mismatch is not FactMismatch.NEWER
        ]
        for repair in repairs:
            if repair.message is None:
                obstacles.append(repair.obstacle)
                continue
            topic, partition, _, value, headers = repair.message
            offset = self.feed(json.loads(value)).offset
            record = KafkaRecord(topic, partition, offset, builders.NOW, b"3", value, headers)
            assert self.projection.apply(record) is None
        return obstacles


def lines(*messages: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(b"\n\n".join(json.dumps(message).encode() for message in messages))


def exported_as(*messages: dict[str, Any]) -> Export:
    export, bad = comparison.read_export(lines(*messages), 1)
    assert bad == []
    return export


def whats(findings: list[AuditFinding]) -> dict[str, str]:
    return {finding.key: str(finding.mismatch) for finding in findings}


def without(*names: str) -> list[dict[str, Any]]:
    return [message for message in COMPANY if message["type"] not in names]
