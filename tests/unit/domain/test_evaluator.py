"""The rules: roles, memberships, groups, projects, time."""

from collections.abc import Iterator

import orjson
import pytest

from projector.domain import evaluator, responses
from projector.domain.authorizations import AgentAuthorization, AuthorizationSource
from projector.domain.decision import Candidate
from projector.domain.projection import Policy, Projection
from tests import builders
from tests.builders import digest
from tests.unit.domain.world import HIERARCHY, RETENTION, World


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


def test_a_removed_project_ends_its_tokens_until_it_is_back() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.removed("project", 7))
    assert (world.status(), world.body()) == (401, {"message": "401 Unauthorized"})
    world.take(builders.project(7, 12))
    assert world.status() == 200
    world.take(builders.removed("project", 7), builders.removed("job", 9))
    assert (world.status(), world.views[digest("token-9")].body) == (401, b"")


def test_what_views_share_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_CACHED", 9)
    world = World(builders.group(3), builders.member(1, group_id=3), builders.agent(5, 1))
    world.take(
        *(builders.project(n, 3) for n in range(1, 30)), builders.configured(5, groups=[{"id": 3}])
    )
    world.take(*(builders.started(n, n) for n in range(1, 30)))
    assert all(world.agents(f"token-{n}") == [5] for n in range(1, 30))
    assert len(world.projection._evaluator._scopes) <= 9


# large lists


def bounded(most: int, agents: int) -> World:
    """A world whose lists take `most` bytes, and a job that may use so many equal agents."""
    world = World()
    world.projection = Projection(0, Policy(1, 30, RETENTION, max_view_bytes=most))
    world.take(
        *HIERARCHY, builders.member(1, group_id=3), builders.started(9, 7),
        *(builders.agent(number, 7) for number in range(10, 10 + agents)),
    )  # fmt: skip
    return world


def test_a_list_that_takes_more_than_its_bound_is_a_503_with_the_reason() -> None:
    """It is never cut short, and never goes to Redis."""
    taken = len(orjson.dumps(bounded(10_000, 20).body()["allowed_agents"]))
    assert len(bounded(taken, 20).agents()) == 20
    world = bounded(taken - 1, 20)
    assert world.status() == 503
    assert world.body() == {
        "message": "503 Service Unavailable",
        "reason": f"the agents of project 7 take more than {taken - 1} bytes; grant it fewer, or "
        "with smaller configurations",
    }
    assert world.projection.take_too_large() == (1, 7)
    assert world.projection.take_too_large() == (0, 7)
    world.take(builders.removed("agent", 10))
    assert len(world.agents()) == 19


def test_agents_that_the_job_may_not_use_take_no_room() -> None:
    world = bounded(100, 20)
    assert world.status() == 503
    world.take(builders.member(1, "guest", group_id=3))
    assert world.agents() == []
    world.take(builders.user(1, "blocked"))
    assert world.status() == 403


def test_a_list_is_encoded_no_further_than_its_bound() -> None:
    """A refused list costs as much as the largest that is not."""
    taken: list[int] = []

    def candidates() -> Iterator[Candidate]:
        for number in range(1000):
            taken.append(number)
            source = AuthorizationSource.OWN_PROJECT
            yield Candidate([AgentAuthorization(number, source, 7, {"note": "x" * 100})], None)

    assert responses.encode_agents(candidates(), 1000) is None
    assert len(taken) < 10


def test_large_lists_do_not_fill_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_CACHED", 50)
    configured = builders.configured(5, groups=[{"id": 12, "note": "x" * 20_000}])
    world = World(
        *HIERARCHY, builders.member(1, group_id=3), builders.agent(5, 7), configured,
        *(builders.project(number, 12) for number in range(20, 60)),
        *(builders.started(number, number) for number in range(20, 60)),
    )  # fmt: skip
    assert world.agents("token-59") == [5]
    held = sum(
        len(access.json or b"")
        for scope in world.projection._evaluator._scopes.values()
        for access in scope.access.values()
    )
    assert 0 < held <= (50 + 1) * evaluator.PART_BYTES
