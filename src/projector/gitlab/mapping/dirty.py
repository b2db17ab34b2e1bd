"""The rules that say which due rows the changed rows of a batch can have changed.

Rules read the mirror as it is after the batch. That is enough for what hangs on ancestors. If
nothing above a thing moved, its old and new ancestors are the same. If something moved, the lowest
that moved still has the thing below it, and marks it.

Members need no rule for a group or project that comes, goes or changes its root: `comparison` marks
its members when it sets or removes the group or project.

A rule may mark too much, never too little. `dirty.b` is one user of a share, or 0 for all users.
"""

import sqlite3
from collections.abc import Iterable, Set
from typing import NamedTuple

from projector.gitlab.mapping.due import EVERYTHING

NAMESPACES, PROJECTS = "touched_namespaces", "touched_projects"


class Rule(NamedTuple):
    """A statement that marks due rows, or the namespaces and projects that later rules follow."""

    name: str
    kind: str  # of due rows; or NAMESPACES or PROJECTS
    source: str  # the temporary table without which the rule marks nothing
    select: str  # (a, b); (id) for namespaces and projects


def _own(kind: str, table: str, column: str = "id") -> Rule:
    """Return the rule from a changed row to the due row of an id that it holds."""
    name = f"{kind}: rows of {table}"
    return Rule(name, kind, table, f"SELECT {column}, 0 FROM changed_{table}")


def _holding(kind: str, source: str, table: str, column: str, a: str = "id") -> Rule:
    """Return the rule from touched namespaces or projects to the rows that refer to them."""
    select = f"SELECT x.{a}, 0 FROM {source} t CROSS JOIN {table} x ON x.{column} = t.id"
    return Rule(f"{kind}: {table} by {column} in {source}", kind, source, select)


def _routes(kind: str, source_type: str) -> Rule:
    select = f"SELECT source_id, 0 FROM changed_routes WHERE source_type = '{source_type}'"
    return Rule(f"{kind}: rows of routes", kind, "routes", select)


# Members of a group reach the projects shared with a group at or below it, or at or below a group
# that is shared with theirs.
_PROJECT_SHARES_OF_MEMBERS = """
    WITH RECURSIVE joined (top, user) AS MATERIALIZED (
        SELECT DISTINCT source_id, user_id FROM changed_members WHERE source_type = 'Namespace'),
    reached (top, id) AS (
        SELECT top, top FROM joined
        UNION SELECT j.top, g.shared_group_id
            FROM joined j CROSS JOIN group_group_links g ON g.shared_with_group_id = j.top
        UNION SELECT r.top, n.id FROM reached r CROSS JOIN namespaces n ON n.parent_id = r.id)
    SELECT l.id, j.user FROM reached r CROSS JOIN project_group_links l ON l.group_id = r.id
        JOIN joined j ON j.top = r.top"""
_PROJECT_SHARES_OF_GROUP_SHARES = """
    WITH RECURSIVE reached (id) AS (SELECT shared_group_id FROM changed_group_group_links
        UNION SELECT n.id FROM reached r CROSS JOIN namespaces n ON n.parent_id = r.id)
    SELECT l.id, 0 FROM reached r CROSS JOIN project_group_links l ON l.group_id = r.id"""
_GROUP_SHARES_OF_MEMBERS = """
    SELECT l.id, m.user_id FROM changed_members m
        CROSS JOIN group_group_links l ON l.shared_with_group_id = m.source_id
        WHERE m.source_type = 'Namespace'"""
_JOBS_OF_ENVIRONMENTS = """
    SELECT b.id, 0 FROM changed_environments e
        CROSS JOIN p_ci_builds b ON b.project_id = e.project_id
        WHERE e.name IN (SELECT x.expanded_environment_name FROM p_ci_builds_metadata x
                WHERE x.build_id = b.id
            UNION ALL SELECT x.expanded_environment_name FROM job_environments x
                WHERE x.ci_job_id = b.id)"""
_JOBS_OF_USERS = """
    SELECT b.id, 0 FROM changed_users u CROSS JOIN p_ci_builds b ON b.user_id = u.id"""


def _grants(kind: str) -> tuple[Rule, ...]:
    """Return the rules of what an agent's authorizations give."""
    by_project, by_group = "agent_project_authorizations", "agent_group_authorizations"
    return (
        _own(kind, "cluster_agents"),
        _own(kind, by_project, "agent_id"),
        _own(kind, by_group, "agent_id"),
        _holding(kind, PROJECTS, "cluster_agents", "project_id"),
        _holding(kind, PROJECTS, by_project, "project_id", "agent_id"),
        _holding(kind, NAMESPACES, by_group, "group_id", "agent_id"),
    )


RULES: tuple[Rule, ...] = (
    Rule("changed namespaces", NAMESPACES, "namespaces", "SELECT id FROM changed_namespaces"),
    Rule("namespaces with another root", NAMESPACES, "rerooted", "SELECT id FROM rerooted"),
    Rule("changed projects", PROJECTS, "projects", "SELECT id FROM changed_projects"),
    Rule(
        "projects in touched namespaces",
        PROJECTS,
        NAMESPACES,
        f"SELECT p.id FROM {NAMESPACES} t CROSS JOIN projects p ON p.namespace_id = t.id",
    ),
    Rule("group: touched namespaces", "group", NAMESPACES, f"SELECT id, 0 FROM {NAMESPACES}"),
    _routes("group", "Namespace"),
    Rule("project: touched projects", "project", PROJECTS, f"SELECT id, 0 FROM {PROJECTS}"),
    _routes("project", "Project"),
    Rule("owner: touched projects", "owner", PROJECTS, f"SELECT id, 0 FROM {PROJECTS}"),
    _own("member", "members"),
    _own("group_share", "group_group_links"),
    Rule("group_share: members", "group_share", "members", _GROUP_SHARES_OF_MEMBERS),
    _own("project_share", "project_group_links"),
    _holding("project_share", PROJECTS, "project_group_links", "project_id"),
    _holding("project_share", "reparented", "project_group_links", "group_id"),
    Rule("project_share: members", "project_share", "members", _PROJECT_SHARES_OF_MEMBERS),
    Rule(
        "project_share: group shares",
        "project_share",
        "group_group_links",
        _PROJECT_SHARES_OF_GROUP_SHARES,
    ),
    _own("user", "users"),
    _own("agent", "cluster_agents"),
    _holding("agent", PROJECTS, "cluster_agents", "project_id"),
    *_grants("configuration"),
    *_grants("shared_agent"),
    _own("instance_agent", "agent_organization_authorizations", "agent_id"),
    _own("instance_agent", "cluster_agents"),
    _own("job", "p_ci_builds"),
    _holding("job", PROJECTS, "p_ci_builds", "project_id"),
    Rule("job: users", "job", "users", _JOBS_OF_USERS),
    Rule("job: environments", "job", "environments", _JOBS_OF_ENVIRONMENTS),
    _own("job", "p_ci_builds_metadata", "build_id"),
    _own("job", "job_environments", "ci_job_id"),
)


def create(db: sqlite3.Connection) -> None:
    """Create the temporary tables of marks."""
    db.execute(
        "CREATE TEMP TABLE dirty (kind TEXT, a INTEGER, b INTEGER NOT NULL DEFAULT 0,"
        " PRIMARY KEY (kind, a, b)) WITHOUT ROWID"
    )
    for table in (NAMESPACES, PROJECTS):
        db.execute(f"CREATE TEMP TABLE {table} (id INTEGER PRIMARY KEY)")


def mark(db: sqlite3.Connection, changed: Set[str], rules: Iterable[Rule] = RULES) -> None:
    """Mark what may be due otherwise; `changed` names the sources that have rows."""
    sources = set(changed)
    for rule in rules:
        if rule.source in sources and db.execute(_marking(rule)).rowcount:
            sources.add(rule.kind)
    # A mark of all users makes those of single users needless.
    db.execute(
        "DELETE FROM dirty WHERE b <> 0 AND EXISTS"
        " (SELECT 1 FROM dirty d WHERE d.kind = dirty.kind AND d.a = dirty.a AND d.b = 0)"
    )
    for table in sources & {NAMESPACES, PROJECTS}:
        db.execute(f"DELETE FROM {table}")


def mark_everything(db: sqlite3.Connection, kinds: Iterable[str]) -> None:
    """Mark all that is due or was told of these kinds."""
    for kind in kinds:
        db.execute(
            f"INSERT OR IGNORE INTO dirty SELECT ?, x.*, 0 FROM ({EVERYTHING[kind]}) x", [kind]
        )
        db.execute(
            "INSERT OR IGNORE INTO dirty SELECT DISTINCT kind, a, 0 FROM told WHERE kind = ?",
            [kind],
        )


def _marking(rule: Rule) -> str:
    if rule.kind in (NAMESPACES, PROJECTS):
        return f"INSERT OR IGNORE INTO {rule.kind} {rule.select}"
    return f"INSERT OR IGNORE INTO dirty SELECT '{rule.kind}', x.* FROM ({rule.select}) x"
