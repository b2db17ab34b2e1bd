"""A replayed event ranks where its original stood; what comes too late is refused."""

from typing import Any

import pytest

from projector.domain.fact_keys import Key
from projector.domain.facts import decode_fact, encode_fact
from projector.domain.projection import Policy, Projection
from projector.events import replay_header
from projector.events.model import KafkaRecord, ReplayPosition
from tests import builders
from tests.builders import NOW
from tests.unit.domain.test_projection import DAY, HIERARCHY, RETENTION, World

Message = dict[str, Any]
COMPANY = [*HIERARCHY, builders.agent(5, 7), builders.started(9, 7)]
MEMBER_REMOVED = builders.event("member.removed", {"user_id": 1, "group_id": 12})


class Replayed(World):
    """A partition in which a place can be kept for an event that was broken at first."""

    def broken(self, message: Message, timestamp: int = NOW) -> KafkaRecord:
        """The record as it should have been, at the place where a broken one stands."""
        record = self.feed(message, timestamp)
        assert self.projection.apply(record._replace(value=b"{")) is not None
        return record

    def replay(self, original: KafkaRecord, timestamp: int = NOW) -> str | None:
        """Apply the mended event as `projector dead-letters replay` sends it."""
        own = self.feed(builders.group(0) | {"type": _kind(original)}, timestamp)
        header = replay_header.encode_position(ReplayPosition(original.offset, original.timestamp))
        said = self.projection.apply(
            original._replace(offset=own.offset, timestamp=timestamp, headers=(header,))
        )
        self.write()
        return said

    def restart(self) -> None:
        fields = {key: encode_fact(fact) for key, fact in self.projection.facts.items()}
        self.projection = Projection(0, Policy(1, 30, RETENTION))
        builders.restore(self.projection, fields)


def _kind(record: KafkaRecord) -> str:
    topics = {
        "membership": "group.set",
        "agent-config": "agent.set",
        "job-lifecycle": "job.started",
    }
    return topics[record.topic]


# the header


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
    said = world.projection.apply(member)
    assert said is not None
    assert "dead-letter-replays" in said
    world.write()
    assert world.agents() == []

    world.take(builders.member(1, group_id=12))
    assert world.agents() == [5]
    said = world.projection.apply(builders.record(MEMBER_REMOVED, 9, headers=headers))
    assert said is not None
    world.write()
    assert world.agents() == [], "a revocation is applied all the same"


# memberships, groups, projects


def test_a_replay_takes_the_place_of_its_original() -> None:
    world = Replayed(*COMPANY)
    original = world.broken(builders.member(1, group_id=12))
    assert world.replay(original) is None
    assert world.agents() == [5]
    world.replay(original)
    assert world.written == {}, "once more changes nothing"


@pytest.mark.parametrize("later", [builders.member(1, "guest", group_id=12), MEMBER_REMOVED])
def test_a_replay_never_overwrites_what_came_later(later: Message) -> None:
    world = Replayed(*COMPANY)
    original = world.broken(builders.member(1, group_id=12))
    world.take(later)
    world.replay(original)
    assert world.agents() == []


def test_older_records_once_more_do_not_undo_a_replay() -> None:
    world = Replayed(*COMPANY)
    older = world.feed(builders.member(1, group_id=12))
    world.projection.apply(older)
    original = world.broken(MEMBER_REMOVED)
    world.replay(original)
    world.projection.apply(older)
    world.write()
    assert world.agents() == []


@pytest.mark.parametrize("kind", ["group", "project"])
def test_a_replayed_removal_takes_only_the_memberships_from_before_it(kind: str) -> None:
    scope = {"group_id": 12} if kind == "group" else {"project_id": 7}
    number = 12 if kind == "group" else 7
    again = builders.group(12, 3) if kind == "group" else builders.project(7, 12)
    world = Replayed(*COMPANY, builders.started(10, 7, 2), builders.member(1, **scope))
    original = world.broken(builders.removed(kind, number))
    world.take(again, builders.member(2, **scope))
    assert (world.agents(), world.agents("token-10")) == ([5], [5])
    world.replay(original)
    assert (world.agents(), world.agents("token-10")) == ([], [5])


@pytest.mark.parametrize("known", [True, False], ids=["known before", "never known"])
@pytest.mark.parametrize("kind", ["group", "project"])
def test_a_membership_from_before_a_removal_does_not_come_to_life(kind: str, known: bool) -> None:
    """Also when the group or project was set again since, and after a restart."""
    scope = {"group_id": 12} if kind == "group" else {"project_id": 7}
    again = builders.group(12, 3) if kind == "group" else builders.project(7, 12)
    world = Replayed(*COMPANY)
    if known:
        world.take(builders.member(1, "guest", **scope))
    original = world.broken(builders.member(1, **scope))
    world.take(builders.removed(kind, 12 if kind == "group" else 7), again, again)
    world.restart()
    world.replay(original)
    world.take(builders.user(1))
    assert world.status() == 200
    assert world.agents() == []
    world.take(builders.member(1, **scope))
    assert world.agents() == [5]


# sequences


def test_where_all_have_sequences_the_highest_counts_also_in_a_replay() -> None:
    """The removal was the later one, though it came first: replayed, it must take effect."""
    world = Replayed(*COMPANY)
    removal = world.broken(MEMBER_REMOVED | {"sequence": "5"})
    world.take(builders.member(1, group_id=12, sequence="3"))
    assert world.agents() == [5]
    world.replay(removal)
    assert world.agents() == []
    world.take(builders.member(1, group_id=12, sequence="4"))
    assert world.agents() == []


def test_a_replay_with_a_lower_sequence_changes_nothing() -> None:
    world = Replayed(*COMPANY, builders.member(1, "guest", group_id=12, sequence="3"))
    original = world.broken(builders.member(1, group_id=12, sequence="2"))
    world.replay(original)
    assert world.agents() == []


def test_a_sequence_counts_though_its_event_was_outranked() -> None:
    world = Replayed(*COMPANY)
    original = world.broken(builders.member(1, "guest", group_id=12, sequence="5"))
    world.take(builders.member(1, "reporter", group_id=12))
    world.replay(original)
    world.take(builders.member(1, group_id=12, sequence="5"))
    assert world.agents() == []
    world.take(builders.member(1, group_id=12, sequence="6"))
    assert world.agents() == [5]


# jobs


def test_a_replayed_start_never_displaces_a_later_one() -> None:
    world = Replayed(*HIERARCHY)
    original = world.broken(builders.started(9, 7, token="first"))
    world.take(builders.started(9, 7, token="second"))
    world.replay(original)
    assert (world.status("first"), world.status("second")) == (401, 200)
    world.take(builders.removed("job", 9))
    assert (world.status("first"), world.status("second")) == (401, 401)


def test_a_replayed_start_in_between_ends_the_token_before_it() -> None:
    world = Replayed(*HIERARCHY, builders.started(9, 7, token="first"))
    original = world.broken(builders.started(9, 7, token="second"))
    world.replay(original)
    assert (world.status("first"), world.status("second")) == (401, 200)


@pytest.mark.parametrize("token", ["first", "second"])
def test_a_replayed_start_of_a_finished_job_starts_nothing(token: str) -> None:
    world = Replayed(*HIERARCHY, builders.started(9, 7, token="first"))
    original = world.broken(builders.started(9, 7, token=token))
    world.take(builders.removed("job", 9))
    world.replay(original)
    assert (world.status("first"), world.status(token)) == (401, 401)


def test_a_replayed_end_is_final_though_starts_came_later() -> None:
    world = Replayed(*HIERARCHY)
    original = world.broken(builders.removed("job", 9))
    world.take(builders.started(9, 7))
    world.replay(original)
    assert world.status() == 401
    world.take(builders.started(9, 7, token="second"))
    assert world.status("second") == 401


def test_a_replayed_token_lives_from_its_original_on() -> None:
    world = Replayed(*HIERARCHY)
    original = world.broken(builders.started(9, 7, expires_at="2099-01-01"))
    world.replay(original, timestamp=NOW + DAY)
    (view,) = world.written.values()
    assert view.expires_at == NOW + 60 * DAY


# lateness


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
    said = world.projection.apply(world.feed(finished, late))
    assert said is not None
    assert said.startswith("applied all the same: too late: ")
    world.write()
    assert world.status() == 401


@pytest.mark.parametrize("timestamp", [2**63 - 1, 10**15])
def test_times_beyond_every_calendar_are_reported_too(timestamp: int) -> None:
    said = World().projection.apply(World().feed(builders.group(3, time="0001-01-01"), timestamp))
    assert said is not None
    assert said.startswith("too late: ")
    assert f"{timestamp} ms since 1970" in said


@pytest.mark.parametrize(("days", "applied"), [(7, True), (8, False)])
def test_a_replay_is_as_late_as_the_original_is_old(days: int, applied: bool) -> None:
    world = Replayed(*COMPANY)
    original = world.broken(builders.member(1, group_id=12))
    said = world.replay(original, NOW + days * DAY)
    assert (said is None) == applied
    if said:
        assert "the time of the record that it replays is 2027-01-15T08:00:00" in said
    assert world.agents() == ([5] if applied else [])


def test_a_replay_is_late_by_its_time_if_that_is_older() -> None:
    world = Replayed(*COMPANY)
    original = world.broken(builders.member(1, group_id=12, time=at(0)), NOW + 5 * DAY)
    said = world.replay(original, NOW + 8 * DAY)
    assert said is not None
    assert "its `time` is" in said


def test_a_replayed_revocation_that_is_late_is_applied_and_reported() -> None:
    world = Replayed(*COMPANY, builders.member(1, group_id=12))
    original = world.broken(MEMBER_REMOVED)
    said = world.replay(original, NOW + 8 * DAY)
    assert said is not None
    assert world.agents() == []


# the checkpoint


def test_facts_of_older_checkpoints_can_be_read() -> None:
    key = Key("3/group/12")
    fact = decode_fact(key, b'{"offset":4,"timestamp":5,"sequence":6}')
    assert (fact.last_removal, fact.sequenced_at) == (4, 4)
    fact = decode_fact(key, b'{"offset":4,"timestamp":5,"data":{"parent":null,"path":"a"}}')
    assert fact.last_removal < 0


def test_a_fact_says_no_more_than_it_must() -> None:
    world = World(builders.group(12, sequence="1"), builders.removed("group", 12, sequence="2"))
    key = Key("3/group/12")
    (fact,) = [fact for name, fact in world.projection.facts.items() if name == key]
    assert encode_fact(fact) == b'{"offset":1,"timestamp":%d,"sequence":2}' % NOW
    world.take(builders.group(12))
    (fact,) = [fact for name, fact in world.projection.facts.items() if name == key]
    assert (fact.last_removal, fact.sequence, fact.sequenced_at) == (1, 2, 1)


@pytest.mark.parametrize("sequence", [{}, {"sequence": "7"}])
@pytest.mark.parametrize("mended_sequence", [{}, {"sequence": "7"}, {"sequence": "8"}])
def test_a_mended_replay_replaces_what_counted_of_its_original(
    sequence: dict[str, str], mended_sequence: dict[str, str]
) -> None:
    """The original was applied, but for the entry that KAS could not read."""

    def configured(*projects: dict[str, Any], **more: Any) -> dict[str, Any]:
        config = {"ci_access": {"projects": list(projects)}}
        return builders.event("agent.configured", {"id": 5, "config": config}, **more)

    world = World(
        *HIERARCHY, builders.project(8, 12), builders.agent(5, 8), builders.member(1, group_id=3)
    )
    original = world.feed(configured({"id": 7, "access_as": {}}, **sequence))
    assert "does not count" in (world.projection.apply(original) or "")
    header = replay_header.encode_position(ReplayPosition(original.offset, original.timestamp))
    mended = world.feed(configured({"id": 7, "access_as": {"agent": {}}}, **mended_sequence))
    for record in (mended._replace(headers=(header,)), original):
        world.projection.apply(record)
    world.take(builders.started(9, 7))
    assert world.agents() == [5]
    world.take(configured(sequence="9"))
    world.projection.apply(mended._replace(offset=mended.offset + 9, headers=(header,)))
    world.write()
    assert world.agents() == [], "a replay never overwrites what came later"
