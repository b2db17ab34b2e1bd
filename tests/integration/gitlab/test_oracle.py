"""The oracle itself: GitLab's rules on a few rows, with answers written by hand."""

import os
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.integration.gitlab.company import people, tree
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.conftest import new_gitlab
from tests.integration.gitlab.gitlab_database import OWNER, GitlabDatabase
from tests.integration.gitlab.oracle import UNKNOWN, Oracle, Verdict
from tests.integration.gitlab.postgres import Postgres


class Case:
    """A company of two roots with one live job in the first, and what GitLab answers it."""

    def __init__(self, gitlab: GitlabDatabase, seed: int) -> None:
        dsn = gitlab.server.socket_dsn(gitlab.name, OWNER)
        self.company, self.oracle = Company(seed, dsn), Oracle(dsn)
        self.company.set_cross_root_grants(on=False)
        it = self.company
        self.user = people.new_user(it)
        self.root, self.other_root = tree.new_group(it), tree.new_group(it)
        self.group = tree.new_group(it, self.root)
        self.project = tree.new_project(it, self.group)
        self.configs = tree.new_project(it, self.root)
        self.elsewhere = tree.new_project(it, self.other_root)
        self.job = it.insert(
            "p_ci_builds", partition_id=100, status="running", type="Ci::Build", commit_id=5,
            project_id=self.project, user_id=self.user, protected=False,
        )  # fmt: skip

    def close(self) -> None:
        self.company.close()

    def member(self, level: int, group: int | None = None, **columns: Any) -> int:
        return self.company.insert(
            "members", access_level=level, source_id=group or self.group, type="GroupMember",
            source_type="Namespace", user_id=columns.pop("user", self.user), **columns,
        )  # fmt: skip

    def agent(self, project: int) -> int:
        name = self.company.name("a")
        return self.company.insert("cluster_agents", project_id=project, name=name)

    def grant(self, kind: str, agent: int, target: int, **config: Any) -> None:
        table = f"agent_{kind}_authorizations"
        columns = {"agent_id": agent, f"{kind}_id": target, "config": Jsonb(config)}
        self.company.insert(table, **columns)

    @property
    def answer(self) -> Verdict:
        return self.oracle.answers().get(self.job, UNKNOWN)

    @property
    def agents(self) -> list[tuple[int, Any]]:
        return [(a["id"], a["configuration"]) for a in self.answer.body["allowed_agents"]]

    @property
    def roles(self) -> list[str]:
        return list(self.answer.body["user"]["roles_in_project"])


@pytest.fixture(scope="module")
def gitlab(shared_postgres: Postgres) -> GitlabDatabase:
    return new_gitlab(shared_postgres, f"oracle_{os.getpid()}")


numbers = count(1)


@pytest.fixture
def case(gitlab: GitlabDatabase) -> Iterator[Case]:
    """Yield a new company beside those of the tests before."""
    case = Case(gitlab, next(numbers))
    yield case
    case.close()


def test_a_whole_answer(case: Case) -> None:
    case.member(30, case.root)
    environment = case.company.value(
        "SELECT id FROM environments WHERE project_id = %s", case.project
    )
    case.company.insert(
        "job_environments", project_id=case.project, environment_id=environment,
        ci_pipeline_id=5, ci_job_id=case.job, expanded_environment_name="production",
    )  # fmt: skip
    own = case.agent(case.project)
    name = case.company.value("SELECT username FROM users WHERE id = %s", case.user)
    assert case.answer == Verdict(
        200,
        {
            "allowed_agents": [
                {"id": own, "config_project": {"id": case.project}, "configuration": {}}
            ],
            "job": {"id": case.job},
            "pipeline": {"id": 5},
            "project": {"id": case.project, "groups": [{"id": case.group}, {"id": case.root}]},
            "user": {
                "id": case.user,
                "username": name,
                "roles_in_project": ["guest", "planner", "reporter", "developer"],
            },
            "environment": {"slug": "production", "tier": "production"},
        },
    )
    case.company.update("users", case.user, state="blocked")
    assert case.answer.status == 403
    case.company.update("projects", case.project, pending_delete=True)
    assert case.answer == UNKNOWN
    case.company.update("p_ci_builds", case.job, status="success")
    assert case.answer == UNKNOWN


def test_the_closest_grant_wins_and_a_filter_has_no_way_around(case: Case) -> None:
    case.member(40)
    agent, own = case.agent(case.configs), case.agent(case.project)
    case.grant("group", agent, case.root, default_namespace="far")
    assert case.agents == [(own, {}), (agent, {"default_namespace": "far"})]
    case.grant("group", agent, case.group, access_as={"ci_user": {}})
    assert case.agents[1] == (agent, {"default_namespace": "far"})
    case.grant("project", agent, case.project, default_namespace="near", id="a/path")
    assert case.agents == [(agent, {"default_namespace": "near"}), (own, {})]
    for config in (
        {"protected_branches_only": "false"}, {"environments": ["*"]}, {"environments": "x"},
    ):  # fmt: skip
        row = case.company.pick("agent_project_authorizations WHERE agent_id = %s", agent)
        case.company.update("agent_project_authorizations", row, config=Jsonb(config))
        assert case.agents == [(own, {})]


def test_shares_count_at_the_lowest_level_until_the_first_expiry(case: Case) -> None:
    invited = tree.new_group(case.company, case.other_root)
    member = case.member(50, case.other_root)
    link = case.company.insert(
        "project_group_links", project_id=case.project, group_id=invited, group_access=30
    )
    assert case.roles[-1] == "developer"
    case.company.update("namespaces", case.group, share_with_group_lock=True)
    assert case.roles == []
    case.company.insert(
        "group_group_links", shared_group_id=case.root, shared_with_group_id=case.other_root,
        group_access=20,
    )  # fmt: skip
    assert case.roles[-1] == "reporter"
    case.company.update("namespaces", case.group, share_with_group_lock=False)
    assert case.roles[-1] == "developer"
    case.company.update("members", member, expires_at=people.day(case.company, "0 days"))
    assert case.roles == []
    case.company.update("members", member, expires_at=people.day(case.company, "1 day"))
    case.company.update("project_group_links", link, expires_at="2020-01-01")
    assert case.roles[-1] == "reporter"


def test_a_share_of_a_group_reaches_direct_members_of_the_invited_group_alone(case: Case) -> None:
    invited = tree.new_group(case.company, case.other_root)
    case.member(50, case.other_root)
    case.company.insert(
        "group_group_links", shared_group_id=case.root, shared_with_group_id=invited,
        group_access=40,
    )  # fmt: skip
    assert case.roles == []
    case.member(30, invited)
    assert case.roles[-1] == "developer"


@pytest.mark.parametrize(
    "columns",
    [{"requested_at": "2026-01-01"}, {"state": 1}, {"user": None}, {"expires_at": "2026-01-01"}],
)
def test_a_membership_that_does_not_count(case: Case, columns: Any) -> None:
    case.member(50, **columns)
    assert case.roles == []


def test_grants_leave_the_root_only_where_the_instance_allows_it(case: Case) -> None:
    case.member(30)
    foreign, shared = case.agent(case.elsewhere), case.agent(case.elsewhere)
    case.grant("group", foreign, case.root)
    case.grant("organization", shared, 1, default_namespace="all")
    assert case.agents == []
    case.company.set_cross_root_grants(on=True)
    assert case.agents == [(foreign, {}), (shared, {"default_namespace": "all"})]


def test_the_owner_of_a_personal_namespace(case: Case) -> None:
    space = tree.new_personal(case.company, case.user)
    case.company.update("projects", case.project, namespace_id=space)
    assert case.roles[-1] == "owner"
    assert case.answer.body["project"]["groups"] == []
