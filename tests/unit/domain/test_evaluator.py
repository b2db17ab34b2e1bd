"""The rules: roles, memberships, groups, projects, time."""

import pytest

from projector.domain import evaluator
from tests import builders
from tests.builders import digest
from tests.unit.domain.world import HIERARCHY, World


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
