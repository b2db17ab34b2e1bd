"""Agents, and what their files grant to projects, groups and the instance."""

from typing import Any

from psycopg.types.json import Jsonb

from tests.integration.gitlab.company.session import Session
from tests.integration.gitlab.company.tree import GROUPS, Act

SAME_ROOT = """
WITH RECURSIVE
  up (id, parent_id) AS (
    SELECT n.id, n.parent_id FROM cluster_agents a JOIN projects p ON p.id = a.project_id
      JOIN namespaces n ON n.id = p.namespace_id WHERE a.id = %s
    UNION ALL SELECT n.id, n.parent_id FROM up JOIN namespaces n ON n.id = up.parent_id),
  down (id) AS (
    SELECT id FROM up WHERE parent_id IS NULL
    UNION ALL SELECT n.id FROM down JOIN namespaces n ON n.parent_id = down.id
      AND n.type = 'Group')
"""
PROJECT_THERE = SAME_ROOT + "SELECT p.id FROM projects p JOIN down ON down.id = p.namespace_id"
GROUP_THERE = SAME_ROOT + "SELECT id FROM down JOIN namespaces USING (id) WHERE type = 'Group'"
ENVIRONMENTS: tuple[Any, ...] = (
    ["production"], ["review/*"], ["*"], ["staging", "review/1"], [], None, ["re*/1"], ["*view/1"],
    ["REVIEW/*"], ["eview/*"], ["review/.", "prod"], ["%", "_roduction", "production.*"],
    "production", {"production": True},
)  # fmt: skip
ACCESS: tuple[Any, ...] = (
    {"agent": {}}, {"ci_job": {}}, {"impersonate": {"username": "ci", "groups": ["g"]}}, None,
    {}, {"agent": {}, "ci_job": {}}, {"ci_user": {}}, {"impersonate": {"username": ""}},
)  # fmt: skip
MISSPELT = (
    "accessAs", "access-as", "Environments", "enviroments", "protected-branches-only",
    "protectedBranchesOnly", "DEFAULT_NAMESPACE",
)  # fmt: skip
TARGETS = {"agent_project_authorizations": "project_id", "agent_group_authorizations": "group_id"}


def new_agent(it: Session) -> None:
    if project := it.pick("projects"):
        it.insert("cluster_agents", project_id=project, name=it.name("agent-"))


def remove_agent(it: Session) -> None:
    it.delete("cluster_agents", it.pick("cluster_agents"))


def rehome_agent(it: Session) -> None:
    """Give an agent another configuration project."""
    if (agent := it.pick("cluster_agents")) and (project := it.pick("projects")):
        it.update("cluster_agents", agent, project_id=project)


def touch_agent(it: Session) -> None:
    if agent := it.pick("cluster_agents"):
        it.update("cluster_agents", agent, has_vulnerabilities=it.chance(0.5))


def a_config(it: Session) -> Jsonb:
    config: dict[str, Any] = {}
    if it.chance(0.4):
        config["environments"] = it.choice(*ENVIRONMENTS)
    if it.chance(0.3):
        config["protected_branches_only"] = it.choice(True, True, False, None, "false", 0, 1)
    if it.chance(0.5):
        size = it.choice(6, 6, 6, 3000, 9000)  # the last are stored apart
        config["default_namespace"] = f"ns-{it.text(size)}"
    if it.chance(0.3):
        config["access_as"] = it.choice(*ACCESS[:4]) if it.chance(0.8) else it.choice(*ACCESS)
    if it.chance(0.1):
        config[it.choice("x-new", "zoë", "later")] = it.choice(1.5, 10**17, [None], {"ü": "😀"})
    if it.chance(0.05):
        config[it.choice(*MISSPELT)] = it.choice([], True, {}, "x")
    if it.chance(0.05):
        config["id"] = "some/path"
    return Jsonb(config)


def grant(it: Session) -> None:
    """Grant an agent to a project or group, mostly of its own root; or change such a grant."""
    if not (agent := it.pick("cluster_agents")):
        return
    table, column = it.choice(*TARGETS.items())
    if it.chance(0.75):
        there = PROJECT_THERE if column == "project_id" else GROUP_THERE
        targets = [row["id"] for row in it.rows(f"{there} ORDER BY 1", agent)]
    else:
        targets = [it.pick("projects" if column == "project_id" else GROUPS)]
    for target in it.sample([t for t in targets if t], 1):
        it.rows(
            f"INSERT INTO {table} (agent_id, {column}, config) VALUES (%s, %s, %s)"
            f" ON CONFLICT (agent_id, {column}) DO UPDATE SET config = excluded.config",
            agent, target, a_config(it),
        )  # fmt: skip


def change_grant(it: Session) -> None:
    table = it.choice(*TARGETS)
    if row := it.pick(table):
        it.update(table, row, config=a_config(it))


def ungrant(it: Session) -> None:
    table = it.choice(*TARGETS)
    it.delete(table, it.pick(table))


def refresh_file(it: Session) -> None:
    """Read an agent's file again: entries that are named no more go, others come."""
    if not (agent := it.pick("cluster_agents")):
        return
    for table in TARGETS:
        for row in it.rows(f"SELECT id FROM {table} WHERE agent_id = %s ORDER BY id", agent):
            if it.chance(0.5):
                it.delete(table, row["id"])
    for _ in range(it.random.randrange(3)):
        grant(it)


def share_with_instance(it: Session) -> None:
    table = "agent_organization_authorizations"
    if (agent := it.pick("cluster_agents")) and it.chance(0.5):
        it.rows(
            f"INSERT INTO {table} (organization_id, agent_id, config) VALUES (1, %s, %s)"
            " ON CONFLICT (agent_id) DO UPDATE SET config = excluded.config", agent, a_config(it),
        )  # fmt: skip
    else:
        it.delete(table, it.pick(table))


def touch_grant(it: Session) -> None:
    """Write a grant without a change: PostgreSQL does not send what it stores apart."""
    table, column = it.choice(*TARGETS.items())
    it.rows(f"UPDATE {table} SET {column} = {column} WHERE id = %s", it.pick(table))


WEIGHTS: dict[Act, int] = {
    new_agent: 6, remove_agent: 1, rehome_agent: 1, touch_agent: 1, grant: 20, change_grant: 5,
    ungrant: 4, refresh_file: 2, share_with_instance: 2, touch_grant: 4,
}  # fmt: skip
