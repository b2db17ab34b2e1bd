"""The differences between an export and the facts are found and named."""

from typing import Any

import pytest

from projector.domain.views import ViewId
from projector.operators.audit import comparison
from projector.operators.audit.comparison import FactMismatch
from tests import builders
from tests.builders import digest
from tests.unit.operators.audit.audited_partition import (
    AFTER,
    COMPANY,
    AuditedPartition,
    exported_as,
    lines,
    whats,
)


def test_an_export_of_what_there_is_differs_in_nothing() -> None:
    assert AuditedPartition().findings(*COMPANY) == []


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
        ("3/shared-agent/8", builders.shared_agent(8, 99, groups=[{"id": 3}]),
         builders.shared_agent(8, 99, groups=[{"id": 3, "environments": ["a"]}])),
        ("*/instance-agent/6", builders.shared(6, 7), builders.shared(6, 7, {"x": 1})),
        ("3/job/9", builders.started(9, 7), builders.started(9, 7, token="other")),
    ],
)  # fmt: skip
def test_every_kind_can_be_missing_extra_and_different_and_is_mended(
    key: str, message: dict[str, Any], changed: dict[str, Any]
) -> None:
    others = [other for other in COMPANY if other["type"] != message["type"]]
    kinds = "group project member user agent configuration shared-agent instance-agent job"

    more = [builders.group(300), builders.started(80, 7)]
    lacks = AuditedPartition(*others, *more)
    assert whats(lacks.findings(*COMPANY, *more)) == {key: "missing"}
    assert lacks.repair(*COMPANY, *more) == []
    assert lacks.findings(*COMPANY, *more) == []

    world = AuditedPartition()
    (found,) = world.findings(*others, changed)
    assert (found.key, found.mismatch) == (key, FactMismatch.DIFFERENT)
    assert found.fields
    assert found.entry is not None
    assert found.entry.line == 2 * len(others) + 1
    assert world.repair(*others, changed) == []
    assert world.findings(*others, changed) == []

    # With a group its memberships go.
    others = [other for other in others if key != "3/group/3" or other["type"] != "member.set"]
    world = AuditedPartition(*others, message)
    assert whats(world.findings(*others, kinds=kinds)) == {key: "extra"}
    obstacles = world.repair(*others, kinds=kinds)
    if key == "*/user/1":
        assert obstacles == ["no event removes a user; feed `user.set` with another state"]
    else:
        assert obstacles == []
        assert world.findings(*others, kinds=kinds) == []


def test_only_kinds_and_namespaces_of_the_export_count_as_exported() -> None:
    world = AuditedPartition(
        *COMPANY, builders.group(40, root="40"), builders.agent(41, 1, root="40")
    )
    assert whats(world.findings(builders.group(3), builders.member(1, group_id=3))) == {}
    assert whats(
        world.findings(builders.group(3), builders.agent(5, 7), builders.group(40, root="40"))
    ) == {"40/agent/41": "extra"}


# newer than the export


def test_what_came_after_the_export_is_newer_and_stays() -> None:
    world = AuditedPartition()
    world.apply(
        builders.event("member.removed", {"user_id": 1, "group_id": 3}),
        builders.group(4, 3),
        builders.group(3, path="renamed"),
        timestamp=AFTER,
    )
    assert set(whats(world.findings(*COMPANY)).values()) == {"newer"}
    assert len(world.findings(*COMPANY)) == 3
    before = world.projection.fields()
    assert world.repair(*COMPANY) == []
    assert world.projection.fields() == before
    assert "newer" not in whats(world.findings(*COMPANY, cutoff=None)).values()


# what is over needs no fact


def test_what_has_ended_is_neither_missing_nor_extra() -> None:
    ended = builders.member(1, group_id=3, expires_at="2026-01-01")
    over = builders.started(9, 7, expires_at="2026-01-01")
    assert AuditedPartition(builders.group(3), builders.project(7, 3)).findings(
        builders.group(3), ended, over
    ) == [*AuditedPartition(builders.group(3), builders.project(7, 3)).findings(builders.group(3))]
    world = AuditedPartition(
        builders.group(3), ended, over, builders.started(8, 7), builders.removed("job", 8)
    )
    assert world.findings(builders.group(3), kinds="group member job") == []
    world = AuditedPartition(builders.group(3), builders.configured(5, projects=[]))
    assert world.findings(builders.group(3), kinds="group configuration") == []


def test_a_token_that_would_outlive_its_record_is_no_difference() -> None:
    forever = builders.started(9, 7, expires_at="2099-01-01")
    assert AuditedPartition(forever).findings(forever) == []


def test_false_and_zero_are_not_the_same_configuration() -> None:
    world = AuditedPartition(builders.shared(6, 7, {"x": 0}))
    (found,) = world.findings(builders.shared(6, 7, {"x": False}))
    assert found.fields == {"configuration": ({"x": 0}, {"x": False})}


# the file


def test_what_has_no_place_in_an_export_is_named_by_its_line() -> None:
    source = lines(
        builders.group(3), builders.removed("group", 3), builders.removed("job", 9),
        builders.event("job.canceling", {"id": 9}), builders.group(3, path="else"),
        builders.group(3),
        builders.event("group.set", {"id": "x"}),
    )  # fmt: skip
    export, bad = comparison.read_export(source, 1)
    assert [line.number for line in bad] == [3, 5, 7, 9, 13]
    assert "group.removed has no place" in bad[0].reason
    assert bad[3].reason == "line 1 has another value of the same entity"
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
    assert comparison.kinds_named(["job", "user"]) == {"job", "user"}
    with pytest.raises(ValueError, match="token is no kind; give one of group, "):
        comparison.kinds_named(["token"])


# jobs without a digest

UNSIGNED, SIGNED = builders.started(9, 7), builders.started(9, 7, token=None)
NINE = "3/job/9"


def test_an_export_without_digests_is_no_difference_to_a_job_with_one() -> None:
    assert AuditedPartition(UNSIGNED).findings(SIGNED) == []
    assert AuditedPartition(SIGNED).findings(SIGNED) == []


def test_an_exported_digest_that_a_job_lacks_is_a_difference_and_is_repaired() -> None:
    world = AuditedPartition(SIGNED)
    (found,) = world.findings(UNSIGNED)
    assert (found.key, found.mismatch) == (NINE, FactMismatch.DIFFERENT)
    assert found.fields == {"digest": (None, digest("token-9"))}
    assert world.repair(UNSIGNED) == []
    assert world.findings(UNSIGNED) == []


def test_a_missing_job_is_repaired_without_a_digest() -> None:
    others = [builders.started(8, 7, token=None), builders.started(10, 7)]
    world = AuditedPartition(*others)
    assert whats(world.findings(SIGNED, *others)) == {NINE: "missing"}
    assert world.repair(SIGNED, *others) == []
    assert world.findings(SIGNED, *others) == []
    assert world.projection.view(ViewId("9"), builders.NOW).status == 503


@pytest.mark.parametrize("later", [[], [builders.started(8, 7)]])
def test_a_repair_from_an_export_without_digests_ends_no_token(later: list[Any]) -> None:
    """The repair takes the place of the start itself, or of a later event."""
    world = AuditedPartition(builders.project(7), UNSIGNED, *later)
    changed = builders.started(9, 7, 2, token=None)
    exported = [builders.project(7), changed, *later]
    (found,) = world.findings(*exported)
    assert found.fields == {"user": (1, 2)}
    assert world.repair(*exported) == []
    assert world.findings(*exported) == []
    assert world.projection.view(digest("token-9"), builders.NOW).status == 200
    assert world.projection.facts.job_of_view(ViewId("9")) is None
