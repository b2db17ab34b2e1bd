"""No repair undoes what came after the export, and what cannot be repaired is named."""

import json

from projector.domain import fact_keys
from projector.events import replay_header
from projector.events.model import KafkaRecord, Topic
from projector.operators.audit import comparison
from projector.operators.audit import repair as audit_repair
from projector.operators.audit.repair import Repair, RepairPlanner
from tests import builders
from tests.unit.operators.audit.audited_partition import (
    AFTER,
    COMPANY,
    RETENTION,
    TAKEN,
    AuditedPartition,
    lines,
    whats,
    without,
)


def apply_late(world: AuditedPartition, repair: Repair) -> str | None:
    """Apply the repair behind all that came before it; return its fault."""
    assert repair.message is not None
    value, headers = repair.message.value, repair.message.headers
    offset = world.feed(json.loads(value)).offset
    return world.projection.apply(
        KafkaRecord(Topic.MEMBERSHIP, 0, offset, builders.NOW, b"3", value, headers)
    )


def test_a_removal_still_on_its_way_is_not_undone_by_the_repair() -> None:
    """Its event is in Kafka before the repair, but not in the facts that were audited."""
    world = AuditedPartition(*without("member.set"), builders.member(1, "guest", group_id=3))
    source = lines(*COMPANY)
    planner = RepairPlanner(world.look, TAKEN, RETENTION)
    (finding,) = world.findings(*COMPANY)
    repair = planner.plan(finding, comparison.line_at(source, finding.entry))
    world.apply(builders.event("member.removed", {"user_id": 1, "group_id": 3}), timestamp=AFTER)
    assert apply_late(world, repair) is None
    assert whats(world.findings(*COMPANY)) == {"3/member/group:3/user:1/direct": "newer"}


def test_a_missing_thing_whose_group_was_removed_on_its_way_does_not_come_back() -> None:
    world = AuditedPartition(*without("member.set"))
    source = lines(*COMPANY)
    planner = RepairPlanner(world.look, TAKEN, RETENTION)
    (finding,) = world.findings(*COMPANY)
    repair = planner.plan(finding, comparison.line_at(source, finding.entry))
    world.apply(builders.removed("group", 3), builders.group(3), timestamp=AFTER)
    assert apply_late(world, repair) is None
    assert world.projection.facts.memberships(fact_keys.group_key("3", 3), 1) == []


def test_a_grant_still_on_its_way_outlives_the_removal_of_what_was_extra() -> None:
    world = AuditedPartition()
    (finding,) = world.findings(*without("member.set"), kinds="member")
    repair = RepairPlanner(world.look, TAKEN, RETENTION).plan(finding, None)
    world.apply(builders.member(1, "owner", group_id=3), timestamp=AFTER)
    assert apply_late(world, repair) is None
    ((_, member),) = world.projection.facts.memberships(fact_keys.group_key("3", 3), 1)
    assert member.level == 50


def test_a_repair_ranks_behind_the_last_fact_of_before_the_export() -> None:
    world = AuditedPartition()
    world.apply(builders.group(4, 3), timestamp=AFTER)
    assert audit_repair.last_offsets(world.projection.facts, TAKEN)[Topic.MEMBERSHIP] == 3
    (finding,) = world.findings(*COMPANY, builders.group(12, 3))[:1]
    repair = RepairPlanner(world.look, TAKEN, RETENTION).plan(
        finding, json.dumps(builders.group(12, 3)).encode()
    )
    assert repair.message is not None
    rank = dict(repair.message.headers)[replay_header.HEADER]
    assert rank == f"3 {TAKEN}".encode()


def test_an_event_whose_sequence_is_too_low_is_said_to_be() -> None:
    world = AuditedPartition(builders.group(3, sequence="7"))
    (obstacle,) = world.repair(builders.group(3, path="else", sequence="7"))
    assert obstacle.startswith("its sequence 7 is not above 7")
    assert obstacle.endswith("give a higher sequence")
    assert world.repair(builders.group(3, path="else", sequence="8")) == []
    assert world.findings(builders.group(3, path="else")) == []
    assert world.repair(builders.group(3, path="without")) == []


def test_a_finished_job_does_not_start_again() -> None:
    world = AuditedPartition(*COMPANY, builders.removed("job", 9))
    assert whats(world.findings(*COMPANY)) == {"3/job/9": "different"}
    assert world.repair(*COMPANY) == ["the job has finished, and finished is final"]


def test_an_event_that_a_worker_would_refuse_as_too_late_is_said_to_be() -> None:
    world = AuditedPartition()
    (obstacle,) = world.repair(*without("agent.set"), builders.agent(5, 8, time="2020-01-01"))
    assert obstacle.startswith("too late")


def test_a_topic_without_anything_older_cannot_be_mended() -> None:
    world = AuditedPartition(builders.group(3))
    (obstacle,) = world.repair(builders.group(3), builders.agent(5, 7))
    assert obstacle == "agent-config has nothing older; feed it as a new event"
