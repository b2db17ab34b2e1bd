"""A projection: records that are applied or refused, and what time alone changes."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from projector.domain import timers
from projector.domain.fact_keys import Key
from projector.domain.index import fact_index
from projector.domain.index.fact_table import FactTable
from projector.events import replay_header
from projector.events.model import KafkaRecord, Topic
from projector.events.partitioning import partition_of
from tests import builders
from tests.builders import NOW, Message, digest
from tests.unit.domain.world import (
    COMPANY,
    DAY,
    HIERARCHY,
    MEMBER_REMOVED,
    RETENTION,
    ReplayWorld,
    World,
)

# records


def test_a_record_in_the_wrong_partition_is_refused_with_both_numbers() -> None:
    world = World(partitions=4)
    assert partition_of("3", 4) != 0
    (complaint,) = world.take(builders.group(3))
    assert complaint == (
        f"partitionkey 3 belongs in partition {partition_of('3', 4)} of 4, but the record is in "
        "partition 0; use the murmur2 partitioner on the partitionkey"
    )


def test_users_and_instance_agents_are_taken_in_every_partition() -> None:
    shared = {"id": 5, "name": "a", "project_id": 3, "configuration": {}}
    messages = [builders.user(1, root=str(root)) for root in range(1, 9)]
    messages += [
        builders.event("instance-agent.set", shared, root=str(root)) for root in range(1, 9)
    ]
    assert World(partitions=4).take(*messages) == [None] * 16


def test_a_shared_agent_is_no_broadcast_but_belongs_to_the_root_namespace_of_the_jobs() -> None:
    (complaint,) = World(partitions=4).take(builders.shared_agent(5, 99, groups=[{"id": 3}]))
    assert complaint is not None
    assert complaint.startswith("partitionkey 3 belongs in partition")


def test_the_end_of_a_shared_agent_revokes_whatever_else_is_wrong_with_it() -> None:
    shared = builders.shared_agent(5, 99, groups=[{"id": 3}])
    world = World(*HIERARCHY, builders.member(1, group_id=3), shared, builders.started(9, 7))
    assert world.agents() == [5]
    end = builders.event("shared-agent.removed", {"id": "5", "token": "x"}, time="noon")
    (complaint,) = world.take(end)
    assert complaint is not None
    assert complaint.startswith("applied all the same: ")
    assert world.agents() == []


def test_an_event_in_the_wrong_topic_is_refused() -> None:
    world = World()
    complaint = world.projection.apply(
        builders.record(builders.group(3), topic=Topic.JOB_LIFECYCLE)
    )
    assert complaint == "group.set belongs in the topic membership, not in job-lifecycle"


def test_a_revocation_with_a_mistake_is_applied_and_reported() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    (complaint,) = world.take(builders.removed("job", 9, time="noon"))
    assert complaint is not None
    assert "RFC 3339" in complaint
    assert world.status() == 401


def test_a_bad_record_changes_nothing() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    assert world.projection.apply(KafkaRecord(Topic.MEMBERSHIP, 0, 99, NOW, None, b"{")) is not None
    world.write()
    assert world.written == {}


def test_an_older_record_once_more_changes_nothing() -> None:
    """Facts can be ahead of the checkpointed offsets: a new owner then applies events again."""
    world = World(*HIERARCHY, builders.agent(5, 7), builders.started(9, 7))
    developer = world.feed(builders.member(1, "developer", group_id=3))
    guest = world.feed(builders.member(1, "guest", group_id=3))
    for record in (developer, guest, developer):
        world.projection.apply(record)
    world.write()
    assert world.agents() == []


def test_an_event_that_breaks_this_program_becomes_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not stop the partition, whose other events revoke."""
    world = World(*HIERARCHY, builders.started(9, 7))

    def broken(*_: Any) -> None:
        raise RuntimeError("this may contain a token")

    with monkeypatch.context() as patched:
        patched.setattr("projector.domain.projection.changes", broken)
        assert world.take(builders.group(3)) == ["internal error: RuntimeError"]
    world.take(builders.removed("job", 9))
    assert world.status() == 401


@pytest.mark.parametrize(
    "contents",
    [[b""], [b"5"], [b"5 x"], [b"-1 5"], [b"3 5 "], [b"9 5"], [b"10 5"], [b"3 5", b"3 5"],
     [b"\xff 5"], [None], [b"9" * 30 + b" 5"]],
    ids=repr,
)  # fmt: skip
def test_a_rank_that_is_unreadable_or_not_before_the_record_is_a_bad_event(
    contents: list[bytes | None],
) -> None:
    world = World(*COMPANY)
    headers = tuple((replay_header.HEADER, content) for content in contents)
    member = builders.record(builders.member(1, group_id=12), 9, headers=headers)
    complaint = world.projection.apply(member)
    assert complaint is not None
    assert "dead-letter-replays" in complaint
    world.write()
    assert world.agents() == []

    world.take(builders.member(1, group_id=12))
    assert world.agents() == [5]
    complaint = world.projection.apply(builders.record(MEMBER_REMOVED, 9, headers=headers))
    assert complaint is not None
    world.write()
    assert world.agents() == [], "a revocation is applied all the same"


# late events


def at(milliseconds: int) -> str:
    return f"2027-01-15T08:00:00.{milliseconds:03}Z"


def test_an_event_that_comes_too_late_is_refused_with_both_times_and_the_bound() -> None:
    world = World(*COMPANY)
    member = builders.member(1, group_id=12, time=at(0))
    assert world.projection.apply(world.feed(member, NOW + RETENTION + 1)) == (
        "too late: Kafka has the record of 2027-01-22T08:00:00.001+00:00, but its `time` is "
        "2027-01-15T08:00:00.000+00:00; at most 604800 seconds may lie between them "
        "(PROJECTOR_TOMBSTONE_RETENTION)"
    )
    world.write()
    assert world.agents() == []


@pytest.mark.parametrize("time", [{"time": at(0)}, {"time": "2027-03-01"}, {}], ids=str)
def test_an_event_in_time_or_without_time_is_applied(time: dict[str, str]) -> None:
    world = World(*COMPANY)
    member = builders.member(1, group_id=12, **time)
    assert world.projection.apply(world.feed(member, NOW + RETENTION)) is None
    world.write()
    assert world.agents() == [5]


def test_a_revocation_that_comes_too_late_is_applied_and_reported() -> None:
    world = World(*COMPANY)
    late = NOW + RETENTION + 1
    finished = builders.removed("job", 9, time=at(0))
    complaint = world.projection.apply(world.feed(finished, late))
    assert complaint is not None
    assert complaint.startswith("applied all the same: too late: ")
    world.write()
    assert world.status() == 401


@pytest.mark.parametrize("timestamp", [2**63 - 1, 10**15])
def test_times_beyond_every_calendar_are_reported_too(timestamp: int) -> None:
    complaint = World().projection.apply(
        World().feed(builders.group(3, time="0001-01-01"), timestamp)
    )
    assert complaint is not None
    assert complaint.startswith("too late: ")
    assert f"{timestamp} ms since 1970" in complaint


@pytest.mark.parametrize(("days", "applied"), [(7, True), (8, False)])
def test_a_replay_is_as_late_as_the_original_is_old(days: int, applied: bool) -> None:
    world = ReplayWorld(*COMPANY)
    original = world.broken(builders.member(1, group_id=12))
    complaint = world.replay(original, NOW + days * DAY)
    assert (complaint is None) == applied
    if complaint:
        assert "the time of the record that it replays is 2027-01-15T08:00:00" in complaint
    assert world.agents() == ([5] if applied else [])


def test_a_replay_is_late_by_its_time_if_that_is_older() -> None:
    world = ReplayWorld(*COMPANY)
    original = world.broken(builders.member(1, group_id=12, time=at(0)), NOW + 5 * DAY)
    complaint = world.replay(original, NOW + 8 * DAY)
    assert complaint is not None
    assert "its `time` is" in complaint


def test_a_replayed_revocation_that_is_late_is_applied_and_reported() -> None:
    world = ReplayWorld(*COMPANY, builders.member(1, group_id=12))
    original = world.broken(MEMBER_REMOVED)
    complaint = world.replay(original, NOW + 8 * DAY)
    assert complaint is not None
    assert world.agents() == []


# time


def test_a_membership_ends_at_its_time() -> None:
    ends = builders.member(1, group_id=3, expires_at="2027-01-15T08:00:10Z")
    world = World(*HIERARCHY, ends, builders.agent(5, 7), builders.started(9, 7))
    world.at(NOW + 9_999)
    assert world.agents() == [5]
    world.at(NOW + 10_000)
    assert world.agents() == []


def test_a_finished_job_leaves_a_tombstone_until_its_token_expires() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.removed("job", 9))
    view = world.views[digest("token-9")]
    assert (view.status, view.body, view.expires_at) == (401, b"", 1801440000000)


def test_a_rebuild_of_old_history_forgets_what_has_long_ended() -> None:
    """Applied and forgotten within one batch: nothing is left to write, and nothing breaks."""
    world = World()
    soon = "2027-01-15T08:00:10Z"
    for message in (
        *HIERARCHY,
        builders.started(9, 7, expires_at=soon),
        builders.removed("job", 9),
    ):
        world.projection.apply(world.feed(message))
    world.at(NOW + 10 * DAY)
    assert world.written == {}
    assert len(world.projection.facts) == len(HIERARCHY)


def test_a_removed_project_is_remembered_as_long_as_its_jobs_live() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.removed("project", 7))
    world.at(NOW + 2 * RETENTION)
    world.take(builders.user(1))
    assert world.status() == 401


DAY_AFTER = "2027-01-16T08:00:00Z"


def test_what_has_ended_is_forgotten_in_time() -> None:
    """Neither memory nor the checkpoint keeps what no lookup can need."""
    soon = "2027-01-15T08:00:10Z"
    world = World(
        *HIERARCHY, builders.agent(5, 7), builders.removed("agent", 5),
        *(builders.started(job, 7, expires_at=soon) for job in (9, 10)),
        builders.started(10, 7, token="second", expires_at=soon), builders.removed("job", 9),
    )  # fmt: skip
    world.at(NOW + 10_000)
    world.take(builders.group(12))
    assert world.written == {}, "expired tokens need no upkeep"
    assert not list(world.projection.all_views(world.now))
    world.at(NOW + RETENTION - 1)
    assert len(world.projection.facts) == 7
    world.projection.advance(NOW + RETENTION)
    assert set(builders.take_changes(world.projection, NOW).facts.values()) == {None}
    assert len(world.projection.facts) == len(HIERARCHY)


def test_a_job_without_a_digest_is_forgotten_in_time_and_frees_its_id() -> None:
    world = World(*HIERARCHY, builders.started(9, 7, token=None, expires_at=DAY_AFTER))
    world.take(builders.removed("job", 9))
    world.at(NOW + RETENTION)
    assert len(world.projection.facts) == len(HIERARCHY)
    assert list(world.projection.facts.view_ids()) == []
    assert world.take(builders.started(9, 7, token=None, root="4")) == [None]


def test_a_replaced_token_is_forgotten_only_then_too() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.started(9, 7, token="second"))
    late = NOW + 60 * DAY
    world.projection.advance(late, applied_until=NOW)
    assert world.projection.facts.ended_token("3", digest("token-9"))
    world.projection.advance(late + DAY, applied_until=late)
    assert not world.projection.facts.ended_token("3", digest("token-9"))


def test_nothing_is_forgotten_before_the_events_of_that_time_are_applied() -> None:
    """One of them may be late by just less than the retention."""
    world = World(*HIERARCHY, builders.member(1, group_id=3, sequence="5"))
    gone = builders.event("member.removed", {"user_id": 1, "group_id": 3}, sequence="7")
    world.take(gone)
    projection = world.projection
    projection.advance(NOW + RETENTION + DAY, applied_until=NOW + RETENTION - 1)
    late = builders.member(1, group_id=3, sequence="6", time="2027-01-15T08:00:00Z")
    projection.apply(world.feed(late, NOW + RETENTION))
    assert projection.facts.memberships(Key("3/group/3"), 1) == []
    projection.advance(NOW + RETENTION + 2 * DAY, applied_until=NOW + RETENTION + DAY)
    assert not projection.facts.get(Key("3/member/group:3/user:1/direct"))


# job keys


def test_a_job_without_a_digest_needs_no_pointer_until_it_has_one() -> None:
    world = World(*HIERARCHY)
    for token, ids, pointers in (
        (None, ["9"], set()), ("token-9", ["9", digest("token-9")], {digest("token-9")}),
    ):  # fmt: skip
        world.projection.apply(world.feed(builders.started(9, 7, token=token)))
        batch = world.projection.take_dirty(9)
        assert (sorted(batch.ids, key=len), batch.pointers) == (ids, pointers)


def test_a_job_is_named_where_its_token_or_its_expiry_is_new() -> None:
    world = World(*HIERARCHY, builders.member(1, group_id=3))
    soon = "2027-01-15T08:00:10Z"
    for message, token in (
        (builders.started(9, 7), "token-9"),
        (builders.member(1, "owner", group_id=3), None),
        (builders.started(9, 7, expires_at=soon), "token-9"),
        (builders.started(9, 7, expires_at=soon, ref_protected=True), None),
        (builders.started(9, 7, token="another", expires_at=soon), "another"),
        (builders.started(9, 7, token=None, expires_at=soon), None),
        (builders.started(9, 7, token=None), "another"),
        (builders.removed("job", 9), None),
    ):
        world.projection.apply(world.feed(message))
        batch = world.projection.take_dirty(9)
        assert batch.ids
        assert batch.pointers == ({digest(token)} if token else set()), message


# turns: no single step may hold up the other partitions of a worker

MANY = 300
# Tokens that one step may mark here, and memberships that it may end.
MOST_TOKENS, MOST_MEMBERS = 50, 1


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """A group with many members and projects, and a job for each; steps are small."""
    monkeypatch.setattr(fact_index, "STEP", MOST_TOKENS)
    numbers = range(1, MANY + 1)
    return [
        builders.group(3), builders.group(12, 3), builders.group(13, 3), builders.group(14, 12),
        builders.agent(5, 10_001), builders.configured(5, groups=[{"id": 12}]),
        *(builders.project(10_000 + n, 14) for n in numbers),
        *(builders.member(n, group_id=12) for n in numbers),
        *(builders.started(n, 10_000 + n, n) for n in numbers),
        *(builders.started(MANY + n, 10_001, 1) for n in numbers),
    ]  # fmt: skip


def largest_steps(steps: Iterator[None], *sizes: Callable[[], int]) -> list[int]:
    """Take the steps; return the largest change of each size within one step."""
    before, largest = [size() for size in sizes], [0] * len(sizes)
    while True:
        is_last = next(steps, steps) is steps
        after = [size() for size in sizes]
        largest = [max(m, abs(b - a)) for m, a, b in zip(largest, before, after, strict=True)]
        before = after
        if is_last:
            return largest


@pytest.mark.parametrize(
    "change",
    [
        builders.removed("group", 12), builders.group(14, 13), builders.user(1, "blocked"),
        builders.member(1, "guest", group_id=3), builders.shared(77, 10_001),
        builders.configured(5, groups=[{"id": 3}, {"id": 14}]), builders.agent(5, 10_002),
        builders.removed("agent", 5), builders.removed("project", 10_001),
    ],
    ids=lambda change: change["type"],
)  # fmt: skip
def test_no_step_of_an_event_is_large(crowd: list[Message], change: Message) -> None:
    world = World(*crowd)
    facts, others = world.projection.facts, builders.take_changes(world.projection, NOW)
    assert not others.facts
    scope = Key("3/group/12")
    tokens, members = largest_steps(
        world.projection.apply_in_steps(world.feed(change)) or iter(()),
        lambda: len(list(facts.dirty)),
        lambda: len(list(facts.membership_keys(scope))),
    )
    assert len(list(facts.dirty)) >= MANY
    assert tokens <= MOST_TOKENS
    assert members <= MOST_MEMBERS


def test_no_step_of_the_clock_or_of_a_checkpoint_is_large(crowd: list[Message]) -> None:
    world = World(*crowd)
    projection, facts = world.projection, world.projection.facts
    soon = "2027-01-15T08:00:10Z"
    for user in range(1, MANY + 1):
        projection.apply(world.feed(builders.member(user, group_id=3, expires_at=soon)))
    projection.apply(world.feed(builders.removed("group", 12)))
    fields: dict[Key, bytes | None] = {}
    assert largest_steps(projection.take_fields_in_steps(fields), lambda: len(fields)) == [1]
    assert len(fields) > 2 * MANY
    projection.take_dirty(sys.maxsize)
    steps = projection.advance_in_steps(NOW + 10_000)
    (tokens,) = largest_steps(steps, lambda: len(list(facts.dirty)))
    assert tokens <= MOST_TOKENS
    steps = projection.advance_in_steps(NOW + RETENTION)
    before = len(facts)
    assert largest_steps(steps, lambda: len(facts)) == [1]
    assert before - len(facts) >= MANY
    every: dict[Key, bytes | None] = {}
    assert largest_steps(projection.take_all_fields_in_steps(every), lambda: len(every)) == [1]
    assert every == projection.fields()


def test_all_timers_are_sorted_step_by_step(
    crowd: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    projection = World(*crowd).projection
    monkeypatch.setattr(timers, "STEP", 10)
    assert len(list(projection.advance_in_steps(NOW))) == 2 * MANY // 10


def test_the_keys_of_a_checkpoint_are_made_step_by_step(
    crowd: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    projection = World(*crowd).projection
    keys, made = [*projection.facts.keys()], list[Key]()

    def one_by_one(_: FactTable) -> Iterator[Key]:
        for key in keys:
            made.append(key)
            yield key

    monkeypatch.setattr(FactTable, "__iter__", one_by_one)
    steps = projection.take_all_fields_in_steps({})
    assert largest_steps(steps, lambda: len(made)) == [1]
    assert made == keys


def test_the_members_of_a_removed_group_cost_their_jobs_one_mark() -> None:
    """Of a removal that a later event undid, only their jobs show the effect."""
    world = ReplayWorld(*COMPANY, *(builders.member(user, group_id=12) for user in range(1, 9)))
    removal = world.broken(builders.removed("group", 12))
    world.take(builders.group(12, 3))
    assert world.agents() == [5]
    world.replay(removal)
    assert world.agents() == []
