"""What single events do to views: the cases that a reader wants to see spelled out."""

from typing import Any

import orjson
import pytest

from projector.domain import evaluator
from projector.domain.group_chain import MAX_DEPTH
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection
from projector.events.model import KafkaRecord, Topic
from projector.events.partitioning import partition_of
from tests import builders
from tests.builders import NOW, digest

DAY = 24 * 3600 * 1000
RETENTION = 7 * DAY
HIERARCHY = [builders.group(3), builders.group(12, 3), builders.project(7, 12)]


class World:
    """One partition, fed with events; `views` holds what was written, by token."""

    def __init__(self, *messages: dict[str, Any], partitions: int = 1, level: int = 30) -> None:
        self.projection = Projection(0, Policy(partitions, level, RETENTION))
        self.feed = builders.Feed()
        self.views: dict[str, Any] = {}
        self.now = NOW
        self.take(*messages)

    def take(self, *messages: dict[str, Any]) -> list[str | None]:
        """Apply the events as one batch; what was said of each."""
        said = [self.projection.apply(self.feed(message)) for message in messages]
        self.write()
        return said

    def at(self, now: int) -> None:
        self.now = now
        self.projection.advance(now)
        self.write()

    def write(self) -> None:
        self.written = {}
        for view in builders.take_changes(self.projection, self.now).views:
            self.written[view.digest] = view
        self.views |= self.written

    def status(self, token: str = "token-9") -> int:
        return int(self.views[digest(token)].status)

    def body(self, token: str = "token-9") -> Any:
        return orjson.loads(self.views[digest(token)].body)

    def agents(self, token: str = "token-9") -> list[int]:
        return [agent["id"] for agent in self.body(token)["allowed_agents"]]


def test_the_answer_for_an_agent_of_the_own_project_field_by_field() -> None:
    environment = {"name": "production", "slug": "production", "tier": "production"}
    world = World(
        builders.group(3), builders.group(12, 3), builders.project(123213, 12),
        builders.member(1, "developer", group_id=3), builders.agent(5, 123213),
        builders.started(9, 123213, environment=environment),
    )  # fmt: skip
    assert world.body() == {
        "allowed_agents": [{"id": 5, "config_project": {"id": 123213}, "configuration": {}}],
        "job": {"id": 9},
        "pipeline": {"id": 2009},
        "project": {"id": 123213, "groups": [{"id": 12}, {"id": 3}]},
        "user": {
            "id": 1,
            "username": "root",
            "roles_in_project": ["guest", "planner", "reporter", "developer"],
        },
        "environment": {"slug": "production", "tier": "production"},
    }


def test_own_agents_come_by_id() -> None:
    agents = [builders.agent(number, 7) for number in (5, 3, 11)]
    world = World(*HIERARCHY, builders.member(1, group_id=3), *agents, builders.started(9, 7))
    assert world.agents() == [3, 5, 11]


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("minimal_access", []),
        ("guest", ["guest"]),
        ("security_manager", ["guest", "planner", "reporter"]),
        ("developer", ["guest", "planner", "reporter", "developer"]),
        ("owner", ["guest", "planner", "reporter", "developer", "maintainer", "owner"]),
    ],
)
def test_roles_are_all_up_to_the_own_and_only_developers_get_agents(
    role: str, names: list[str]
) -> None:
    world = World(*HIERARCHY, builders.member(1, role, group_id=12), builders.agent(5, 7))
    world.take(builders.started(9, 7))
    assert world.body()["user"]["roles_in_project"] == names
    assert world.agents() == ([5] if "developer" in names else [])


def test_the_highest_membership_counts_wherever_it_comes_from() -> None:
    world = World(
        *HIERARCHY, builders.agent(5, 7), builders.started(9, 7),
        builders.member(1, "guest", project_id=7),
        builders.member(1, "guest", group_id=12),
        builders.member(1, "maintainer", group_id=12, via="share:4"),
    )  # fmt: skip
    assert world.agents() == [5]
    world.take(builders.event("member.removed", {"user_id": 1, "group_id": 12, "via": "share:4"}))
    assert world.agents() == []


def test_with_minimum_role_none_everybody_gets_the_agents() -> None:
    world = World(*HIERARCHY, builders.agent(5, 7), builders.started(9, 7), level=0)
    assert world.agents() == [5]


def test_a_membership_elsewhere_does_not_count() -> None:
    world = World(*HIERARCHY, builders.group(13, 3), builders.project(8, 13), builders.agent(5, 7))
    world.take(
        builders.member(1, group_id=13),
        builders.member(1, project_id=8),
        builders.member(2, group_id=3),
        builders.member(1, group_id=3, root="4"),
        builders.started(9, 7),
    )
    assert world.agents() == []


def test_two_root_namespaces_in_one_partition_know_nothing_of_each_other() -> None:
    world = World(*HIERARCHY, builders.member(1, group_id=3), builders.started(9, 7))
    world.take(builders.agent(5, 7, root="4"), builders.removed("project", 7, root="4"))
    assert world.agents() == []
    assert world.status() == 200


def test_a_membership_ends_at_its_time() -> None:
    ends = builders.member(1, group_id=3, expires_at="2027-01-15T08:00:10Z")
    world = World(*HIERARCHY, ends, builders.agent(5, 7), builders.started(9, 7))
    world.at(NOW + 9_999)
    assert world.agents() == [5]
    world.at(NOW + 10_000)
    assert world.agents() == []


def test_until_the_project_and_its_groups_are_known_the_view_asks_to_come_back() -> None:
    world = World(builders.started(9, 7))
    assert world.status() == 503
    assert world.body()["reason"] == "project 7 is not known yet"
    world.take(builders.project(7, 12))
    assert world.body()["reason"] == "group 12 above project 7 is not known yet"
    world.take(builders.group(12, 3))
    assert world.body()["reason"] == "group 3 above project 7 is not known yet"
    world.take(builders.group(3))
    assert world.status() == 200


def test_a_chain_in_a_circle_is_not_known_and_hangs_nobody() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.group(3, 12))
    assert world.status() == 503
    world.take(builders.group(3))
    assert world.status() == 200


def test_a_removed_project_ends_its_tokens_until_it_is_back() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.removed("project", 7))
    assert (world.status(), world.body()) == (401, {"message": "401 Unauthorized"})
    world.take(builders.project(7, 12))
    assert world.status() == 200
    world.take(builders.removed("project", 7), builders.removed("job", 9))
    assert (world.status(), world.views[digest("token-9")].body) == (401, b"")


@pytest.mark.parametrize("kind", ["group", "project"])
def test_a_removed_group_or_project_takes_its_memberships_with_it(kind: str) -> None:
    """They do not come back with it; `set` has to bring them."""
    scope = {"group_id": 12} if kind == "group" else {"project_id": 7}
    again = builders.group(12, 3) if kind == "group" else builders.project(7, 12)
    number = 12 if kind == "group" else 7
    world = World(
        *HIERARCHY, builders.member(1, **scope), builders.agent(5, 7), builders.started(9, 7)
    )
    assert world.agents() == [5]
    world.take(builders.removed(kind, number), again)
    assert world.agents() == []


def test_a_blocked_user_gets_403_until_active_again() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.user(1, "blocked"))
    assert world.status() == 403
    assert world.body() == {"message": "403 Forbidden - Your account has been blocked."}
    world.take(builders.user(1))
    assert world.status() == 200
    assert world.body()["user"]["username"] == "u1"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("deactivated", "deactivated by"),
        ("blocked_pending_approval", "pending"),
        ("new", "blocked"),
    ],
)
def test_every_state_but_active_is_refused_with_gitlabs_text(state: str, says: str) -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.user(1, state))
    assert world.status() == 403
    assert says in world.body()["message"]


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


def test_an_event_that_breaks_this_program_becomes_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not stop the partition, whose other events revoke."""
    world = World(*HIERARCHY, builders.started(9, 7))

    def broken(*_: Any) -> None:
        raise RuntimeError("a token may stand here")

    with monkeypatch.context() as patched:
        patched.setattr("projector.domain.projection.changes", broken)
        assert world.take(builders.group(3)) == ["internal error: RuntimeError"]
    world.take(builders.removed("job", 9))
    assert world.status() == 401


def test_a_chain_of_groups_beyond_all_reason_is_not_known() -> None:
    chain = [builders.group(n, n + 1) for n in range(100, 100 + 2 * MAX_DEPTH)]
    world = World(*chain, builders.project(7, 100), builders.started(9, 7))
    assert world.status() == 503


def test_a_finished_job_leaves_a_tombstone_until_its_token_expires() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.removed("job", 9))
    view = world.views[digest("token-9")]
    assert (view.status, view.body, view.expires_at) == (401, b"", 1801440000000)


def test_finished_is_final_in_any_order() -> None:
    world = World(*HIERARCHY, builders.removed("job", 9), builders.started(9, 7))
    assert world.status() == 401
    world.take(builders.started(9, 7), builders.started(9, 7, token="other"))
    assert (world.status(), world.status("other")) == (401, 401)


def test_a_cancelling_job_keeps_its_token() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.event("job.canceling", {"id": 9}))
    assert world.status() == 200


def test_a_second_start_ends_the_first_token_for_good() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.started(9, 7, token="second"))
    assert (world.status(), world.status("second")) == (401, 200)
    world.take(builders.started(9, 7))
    assert (world.status(), world.status("second")) == (401, 200)


def test_a_token_belongs_to_one_job() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    (said,) = world.take(builders.started(10, 7, token="token-9"))
    assert said
    assert "already belongs to job 9" in said
    assert world.body()["job"] == {"id": 9}


def test_a_token_lives_at_most_sixty_days() -> None:
    world = World(*HIERARCHY, builders.started(9, 7, expires_at="2099-01-01"))
    assert world.views[digest("token-9")].expires_at == NOW + 60 * DAY


def test_an_older_sequence_is_ignored_and_one_without_keeps_it() -> None:
    world = World(*HIERARCHY, builders.agent(5, 7), builders.started(9, 7))
    world.take(builders.member(1, "owner", group_id=3, sequence="10"))
    for late in ("9", "10"):
        world.take(builders.member(1, "guest", group_id=3, sequence=late))
        assert world.agents() == [5]
    world.take(builders.member(1, "guest", group_id=3))
    assert world.agents() == []
    world.take(builders.member(1, "owner", group_id=3, sequence="10"))
    assert world.agents() == []
    world.take(builders.member(1, "owner", group_id=3, sequence="11"))
    assert world.agents() == [5]


def test_a_late_set_does_not_bring_back_what_was_removed() -> None:
    world = World(
        *HIERARCHY, builders.agent(5, 7, sequence="1"), builders.removed("agent", 5, sequence="3")
    )
    world.take(
        builders.member(1, group_id=3), builders.started(9, 7), builders.agent(5, 7, sequence="2")
    )
    assert world.agents() == []


def test_a_change_writes_only_the_views_that_it_touches() -> None:
    world = World(
        *HIERARCHY, builders.project(8, 12), builders.started(9, 7), builders.started(10, 8, 2),
        builders.started(11, 7, 2),
    )  # fmt: skip
    touched = {
        "agent": (builders.agent(5, 7), {9, 11}),
        "member of project": (builders.member(2, project_id=7), {11}),
        "member of group": (builders.member(2, group_id=3), {10, 11}),
        "user": (builders.user(1), {9}),
        "project": (builders.project(8, 3), {10}),
        "group": (builders.group(12), {9, 11}),
        "nothing below it": (builders.group(99, 3), set()),
        "the same again": (builders.group(12), set()),
        "finish": (builders.removed("job", 9), {9}),
        "a group above the job that is left": (builders.group(12, 3), {11}),
        "the project of the finished job": (builders.project(7, 3), {11}),
    }
    for what, (message, jobs) in touched.items():
        world.take(message)
        assert {view.job for view in world.written.values()} == jobs, what


def test_what_has_ended_is_forgotten_in_time() -> None:
    """Memory and checkpoint hold nothing for ever that no lookup can need."""
    soon = "2027-01-15T08:00:10Z"
    world = World(
        *HIERARCHY, builders.started(9, 7, expires_at=soon), builders.started(10, 7, expires_at=soon),
        builders.started(10, 7, token="second", expires_at=soon), builders.removed("job", 9),
        builders.agent(5, 7), builders.removed("agent", 5),
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


def test_a_record_in_the_wrong_partition_is_refused_with_both_numbers() -> None:
    world = World(partitions=4)
    assert partition_of("3", 4) != 0
    (said,) = world.take(builders.group(3))
    assert said == (
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


def test_an_event_in_the_wrong_topic_is_refused() -> None:
    world = World()
    said = world.projection.apply(builders.record(builders.group(3), topic=Topic.JOB_LIFECYCLE))
    assert said == "group.set belongs in the topic membership, not in job-lifecycle"


def test_a_revocation_with_a_mistake_is_applied_and_reported() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    (said,) = world.take(builders.removed("job", 9, time="noon"))
    assert said is not None
    assert "RFC 3339" in said
    assert world.status() == 401


def test_an_older_record_once_more_changes_nothing() -> None:
    """Facts can be ahead of the checkpointed offsets: a new owner then applies events again."""
    world = World(*HIERARCHY, builders.agent(5, 7), builders.started(9, 7))
    developer = world.feed(builders.member(1, "developer", group_id=3))
    guest = world.feed(builders.member(1, "guest", group_id=3))
    for record in (developer, guest, developer):
        world.projection.apply(record)
    world.write()
    assert world.agents() == []


def test_a_bad_record_changes_nothing() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    assert world.projection.apply(KafkaRecord(Topic.MEMBERSHIP, 0, 99, NOW, None, b"{")) is not None
    world.write()
    assert world.written == {}


def test_revocations_are_written_before_what_only_grants() -> None:
    world = World(*HIERARCHY, builders.member(1, group_id=3), builders.agent(5, 7))
    world.take(*(builders.started(job, 7) for job in (9, 10)), builders.started(11, 7, 2))
    feed, projection = world.feed, world.projection
    for message in (
        builders.started(12, 7), builders.member(2, group_id=3), builders.removed("job", 10),
        builders.member(1, "guest", group_id=3),
    ):  # fmt: skip
        projection.apply(feed(message))
    views = builders.take_changes(projection, NOW).views
    assert [view.job for view in views[:1]] == [10]
    assert {view.job for view in views[1:3]} == {9, 12}
    assert [view.job for view in views[3:]] == [11]


def test_a_grant_that_is_new_may_take_away() -> None:
    """It is closer than the agent's own project, and lets fewer jobs in."""
    world = World(
        *HIERARCHY, builders.member(1, group_id=3), builders.agent(5, 7), builders.started(9, 7)
    )
    assert world.agents() == [5]
    filtered = builders.configured(5, projects=[{"id": 7, "environments": ["production"]}])
    world.projection.apply(world.feed(filtered))
    world.projection.apply(world.feed(builders.started(10, 7)))
    first, second = builders.take_changes(world.projection, NOW).views
    assert (first.job, orjson.loads(first.body)["allowed_agents"]) == (9, [])
    assert second.job == 10


def test_a_job_is_named_where_its_token_or_its_expiry_is_new() -> None:
    world = World(*HIERARCHY, builders.member(1, group_id=3))
    soon = "2027-01-15T08:00:10Z"
    for message, token in (
        (builders.started(9, 7), "token-9"),
        (builders.member(1, "owner", group_id=3), None),
        (builders.started(9, 7, expires_at=soon), "token-9"),
        (builders.started(9, 7, expires_at=soon, ref_protected=True), None),
        (builders.started(9, 7, token="another", expires_at=soon), "another"),
        (builders.removed("job", 9), None),
    ):
        world.projection.apply(world.feed(message))
        portion = world.projection.take_dirty(9)
        assert portion.tokens
        assert portion.named == ({digest(token)} if token else set()), message


def test_what_views_share_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_CACHED", 9)
    world = World(builders.group(3), builders.member(1, group_id=3), builders.agent(5, 1))
    world.take(
        *(builders.project(n, 3) for n in range(1, 30)), builders.configured(5, groups=[{"id": 3}])
    )
    world.take(*(builders.started(n, n) for n in range(1, 30)))
    assert all(world.agents(f"token-{n}") == [5] for n in range(1, 30))
    assert len(world.projection._evaluator._scopes) <= 9
