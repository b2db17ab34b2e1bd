"""What an export and the facts differ in is named; no repair undoes what came after the export."""

import io
import json
from typing import Any

import pytest

from projector.domain import fact_keys
from projector.domain.projection import Policy, Projection
from projector.events import replay_header
from projector.events.model import KafkaRecord, Topic
from projector.operators import audit, audit_repair
from projector.operators.audit import AuditFinding, AuditScope, Export, FactMismatch
from projector.operators.audit_repair import RepairPlanner
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
    builders.agent(5, 7), builders.configured(5, projects=[{"id": 7}]), builders.shared(6, 7),
    builders.started(9, 7),
]  # fmt: skip


class World:
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
        return list(audit.compare_facts(export, scope, self.look, cutoff))

    def mend(self, *exported: dict[str, Any], kinds: str = "") -> list[str]:
        """Apply what mends the findings, as a worker does; what cannot be mended."""
        source = lines(*exported)
        obstacles = []
        mender = RepairPlanner(self.look, TAKEN, RETENTION)
        repairs = [
            mender.mend(finding, audit.line_at(source, finding.entry))
            for finding in self.findings(*exported, kinds=kinds)
            if finding.what is not FactMismatch.NEWER
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
    export, bad = audit.read_export(lines(*messages), 1)
    assert bad == []
    return export


def whats(findings: list[AuditFinding]) -> dict[str, str]:
    return {finding.key: str(finding.what) for finding in findings}


def without(*names: str) -> list[dict[str, Any]]:
    return [message for message in COMPANY if message["type"] not in names]


def test_an_export_of_what_there_is_differs_in_nothing() -> None:
    assert World().findings(*COMPANY) == []


@pytest.mark.parametrize(
    ("key", "message", "changed"),
    [
        ("3/group/3", builders.group(3), builders.group(3, path="else")),
        ("3/project/7", builders.project(7, 3), builders.project(7, None)),
        ("3/member/group:3/user:1/direct", builders.member(1, group_id=3),
         builders.member(1, "owner", group_id=3)),
        ("*/user/1", builders.user(1), builders.user(1, "blocked")),
        ("3/agent/5", builders.agent(5, 7), builders.agent(5, 8)),
        ("3/configuration/5", builders.configured(5, projects=[{"id": 7}]),
         builders.configured(5, projects=[{"id": 8}])),
        ("*/instance-agent/6", builders.shared(6, 7), builders.shared(6, 7, {"x": 1})),
        ("3/job/9", builders.started(9, 7), builders.started(9, 7, token="other")),
    ],
)  # fmt: skip
def test_every_kind_can_be_missing_extra_and_different_and_is_mended(
    key: str, message: dict[str, Any], changed: dict[str, Any]
) -> None:
    others = [other for other in COMPANY if other["type"] != message["type"]]
    kinds = "group project member user agent configuration instance-agent job"

    more = [builders.group(300), builders.started(80, 7)]
    lacks = World(*others, *more)
    assert whats(lacks.findings(*COMPANY, *more)) == {key: "missing"}
    assert lacks.mend(*COMPANY, *more) == []
    assert lacks.findings(*COMPANY, *more) == []

    world = World()
    (found,) = world.findings(*others, changed)
    assert (found.key, found.what) == (key, FactMismatch.DIFFERENT)
    assert found.fields
    assert found.entry is not None
    assert found.entry.line == 2 * len(others) + 1
    assert world.mend(*others, changed) == []
    assert world.findings(*others, changed) == []

    # With a group its memberships go.
    others = [other for other in others if key != "3/group/3" or other["type"] != "member.set"]
    world = World(*others, message)
    assert whats(world.findings(*others, kinds=kinds)) == {key: "extra"}
    obstacles = world.mend(*others, kinds=kinds)
    if key == "*/user/1":
        assert obstacles == ["no event removes a user; feed `user.set` with another state"]
    else:
        assert obstacles == []
        assert world.findings(*others, kinds=kinds) == []


def test_only_kinds_and_namespaces_of_the_export_count_as_exported() -> None:
    world = World(*COMPANY, builders.group(40, root="40"), builders.agent(41, 1, root="40"))
    assert whats(world.findings(builders.group(3), builders.member(1, group_id=3))) == {}
    assert whats(
        world.findings(builders.group(3), builders.agent(5, 7), builders.group(40, root="40"))
    ) == {"40/agent/41": "extra"}


# newer than the export


def test_what_came_after_the_export_is_newer_and_stays() -> None:
    world = World()
    world.apply(
        builders.event("member.removed", {"user_id": 1, "group_id": 3}),
        builders.group(4, 3),
        builders.group(3, path="renamed"),
        timestamp=AFTER,
    )
    assert set(whats(world.findings(*COMPANY)).values()) == {"newer"}
    assert len(world.findings(*COMPANY)) == 3
    before = world.projection.fields()
    assert world.mend(*COMPANY) == []
    assert world.projection.fields() == before
    assert "newer" not in whats(world.findings(*COMPANY, cutoff=None)).values()


def test_a_removal_still_on_its_way_is_not_undone_by_the_repair() -> None:
    """It is in Kafka before the repair, but the facts that were audited do not know it yet."""
    world = World(*without("member.set"), builders.member(1, "guest", group_id=3))
    source = lines(*COMPANY)
    mender = RepairPlanner(world.look, TAKEN, RETENTION)
    (finding,) = world.findings(*COMPANY)
    repair = mender.mend(finding, audit.line_at(source, finding.entry))
    world.apply(builders.event("member.removed", {"user_id": 1, "group_id": 3}), timestamp=AFTER)
    assert repair.message is not None
    value, headers = repair.message.value, repair.message.headers
    offset = world.feed(json.loads(value)).offset
    late = KafkaRecord(Topic.MEMBERSHIP, 0, offset, builders.NOW, b"3", value, headers)
    assert world.projection.apply(late) is None
    assert whats(world.findings(*COMPANY)) == {"3/member/group:3/user:1/direct": "newer"}


def test_a_missing_thing_whose_group_was_removed_on_its_way_does_not_come_back() -> None:
    world = World(*without("member.set"))
    source = lines(*COMPANY)
    mender = RepairPlanner(world.look, TAKEN, RETENTION)
    (finding,) = world.findings(*COMPANY)
    repair = mender.mend(finding, audit.line_at(source, finding.entry))
    world.apply(builders.removed("group", 3), builders.group(3), timestamp=AFTER)
    assert repair.message is not None
    offset = world.feed(json.loads(repair.message.value)).offset
    late = KafkaRecord(
        Topic.MEMBERSHIP,
        0,
        offset,
        builders.NOW,
        b"3",
        repair.message.value,
        repair.message.headers,
    )
    assert world.projection.apply(late) is None
    assert world.projection.facts.memberships(fact_keys.group_key("3", 3), 1) == []


def test_a_grant_still_on_its_way_outlives_the_removal_of_what_was_extra() -> None:
    world = World()
    (finding,) = world.findings(*without("member.set"), kinds="member")
    repair = RepairPlanner(world.look, TAKEN, RETENTION).mend(finding, None)
    world.apply(builders.member(1, "owner", group_id=3), timestamp=AFTER)
    assert repair.message is not None
    offset = world.feed(json.loads(repair.message.value)).offset
    late = KafkaRecord(
        Topic.MEMBERSHIP,
        0,
        offset,
        builders.NOW,
        b"3",
        repair.message.value,
        repair.message.headers,
    )
    assert world.projection.apply(late) is None
    ((_, member),) = world.projection.facts.memberships(fact_keys.group_key("3", 3), 1)
    assert member.level == 50


def test_a_repair_ranks_behind_the_last_fact_of_before_the_export() -> None:
    world = World()
    world.apply(builders.group(4, 3), timestamp=AFTER)
    assert audit_repair.moments(world.projection.facts, TAKEN)[Topic.MEMBERSHIP] == 3
    (finding,) = world.findings(*COMPANY, builders.group(12, 3))[:1]
    repair = RepairPlanner(world.look, TAKEN, RETENTION).mend(
        finding, json.dumps(builders.group(12, 3)).encode()
    )
    assert repair.message is not None
    rank = dict(repair.message.headers)[replay_header.HEADER]
    assert rank == f"3 {TAKEN}".encode()


# what cannot be mended


def test_an_event_whose_sequence_is_too_low_is_said_to_be() -> None:
    world = World(builders.group(3, sequence="7"))
    (obstacle,) = world.mend(builders.group(3, path="else", sequence="7"))
    assert obstacle.startswith("its sequence 7 is not above 7")
    assert obstacle.endswith("give a higher sequence")
    assert world.mend(builders.group(3, path="else", sequence="8")) == []
    assert world.findings(builders.group(3, path="else")) == []
    assert world.mend(builders.group(3, path="without")) == []


def test_a_finished_job_does_not_start_again() -> None:
    world = World(*COMPANY, builders.removed("job", 9))
    assert whats(world.findings(*COMPANY)) == {"3/job/9": "different"}
    assert world.mend(*COMPANY) == ["the job has finished, and finished is final"]


def test_an_event_that_a_worker_would_refuse_as_too_late_is_said_to_be() -> None:
    world = World()
    (obstacle,) = world.mend(*without("agent.set"), builders.agent(5, 8, time="2020-01-01"))
    assert obstacle.startswith("too late")


def test_a_topic_without_anything_older_cannot_be_mended() -> None:
    world = World(builders.group(3))
    (obstacle,) = world.mend(builders.group(3), builders.agent(5, 7))
    assert obstacle == "agent-config has nothing older; feed it as a new event"


# what is over needs no fact


def test_what_has_ended_is_neither_missing_nor_extra() -> None:
    ended = builders.member(1, group_id=3, expires_at="2026-01-01")
    over = builders.started(9, 7, expires_at="2026-01-01")
    assert World(builders.group(3), builders.project(7, 3)).findings(
        builders.group(3), ended, over
    ) == [*World(builders.group(3), builders.project(7, 3)).findings(builders.group(3))]
    world = World(
        builders.group(3), ended, over, builders.started(8, 7), builders.removed("job", 8)
    )
    assert world.findings(builders.group(3), kinds="group member job") == []
    world = World(builders.group(3), builders.configured(5, projects=[]))
    assert world.findings(builders.group(3), kinds="group configuration") == []


def test_a_token_that_would_outlive_its_record_is_no_difference() -> None:
    forever = builders.started(9, 7, expires_at="2099-01-01")
    assert World(forever).findings(forever) == []


def test_false_and_zero_are_not_the_same_configuration() -> None:
    world = World(builders.shared(6, 7, {"x": 0}))
    (found,) = world.findings(builders.shared(6, 7, {"x": False}))
    assert found.fields == {"configuration": ({"x": 0}, {"x": False})}


# the file


def test_what_has_no_place_in_an_export_is_named_by_its_line() -> None:
    source = lines(
        builders.group(3), builders.removed("group", 3), builders.removed("job", 9),
        builders.event("job.canceling", {"id": 9}), builders.group(3, path="else"), builders.group(3),
        builders.event("group.set", {"id": "x"}),
    )  # fmt: skip
    export, bad = audit.read_export(source, 1)
    assert [line.number for line in bad] == [3, 5, 7, 9, 13]
    assert "group.removed has no place" in bad[0].reason
    assert bad[3].reason == "line 1 says something else about the same thing"
    assert export.count == 2


@pytest.mark.parametrize(
    ("times", "taken"),
    [
        (("2027-01-02", "2027-01-01"), 1798761600000),
        (("2027-01-02", None, "2027-01-01"), None),
        ((None, "2027-01-01"), None),
    ],
)
def test_the_earliest_time_is_when_the_export_was_taken(
    times: tuple[str | None, ...], taken: int | None
) -> None:
    messages = [
        builders.group(number) | ({} if time is None else {"time": time})
        for number, time in enumerate(times, start=1)
    ]
    assert exported_as(*messages).taken == taken


def test_a_kind_that_is_none_is_named() -> None:
    assert audit.kinds_named(["job", "user"]) == {"job", "user"}
    with pytest.raises(ValueError, match="token is no kind; known are group, "):
        audit.kinds_named(["token"])
