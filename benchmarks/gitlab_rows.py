"""A GitLab-shaped database with as many rows as a benchmark needs, made by SQL.

Of 100 rows 8 are users, 4 groups and their routes, 16 projects and their routes, 16 environments,
49 memberships, and 6 running jobs and the environments that they name.
"""

from typing import Any, Final, LiteralString, NamedTuple

# One row in so many is a user; the other numbers follow.
ROWS_PER_USER: Final = 12.5
ROOTS: Final = 20
MEMBERS_PER_USER: Final = 6

# `n` begins at 0. Group 0 of every root is its top; below it lie groups in chains of three.
_STATEMENTS: Final[tuple[LiteralString, ...]] = (
    """INSERT INTO users (id, username, email, state)
    SELECT n + 1, 'user-' || n, n || '@example.com', 'active'
    FROM generate_series(0, %(users)s - 1) n""",
    """INSERT INTO namespaces (id, type, name, path, parent_id)
    SELECT n + 1, 'Group', 'group', 'group-' || n,
      CASE WHEN n < %(roots)s THEN NULL
           WHEN n %% 3 = 0 OR n < 2 * %(roots)s THEN n %% %(roots)s + 1
           ELSE n - %(roots)s + 1 END
    FROM generate_series(0, %(groups)s - 1) n""",
    """INSERT INTO routes (source_type, source_id, path)
    SELECT 'Namespace', id, 'company/' || path FROM namespaces""",
    """INSERT INTO projects (id, namespace_id, name, path)
    SELECT n + 1, n %% %(groups)s + 1, 'project', 'project-' || n
    FROM generate_series(0, %(projects)s - 1) n""",
    """INSERT INTO routes (source_type, source_id, path)
    SELECT 'Project', id, 'company/' || path FROM projects""",
    """INSERT INTO environments (project_id, name, slug, tier)
    SELECT n %% %(projects)s + 1, 'env-' || n, 'env-' || n, n %% 5
    FROM generate_series(0, %(environments)s - 1) n""",
    """INSERT INTO members (id, access_level, source_type, source_id, user_id, type)
    SELECT n + 1, 30,
      CASE WHEN n %% 4 = 0 THEN 'Namespace' ELSE 'Project' END,
      (n / %(users)s * 13 + n) %% CASE WHEN n %% 4 = 0 THEN %(groups)s ELSE %(projects)s END + 1,
      n %% %(users)s + 1, 'Member'
    FROM generate_series(0, %(members)s - 1) n""",
    """INSERT INTO project_group_links (project_id, group_id, group_access)
    SELECT n * 7 %% %(projects)s + 1, n %% %(groups)s + 1, 30
    FROM generate_series(0, %(shares)s - 1) n""",
    """INSERT INTO cluster_agents (id, project_id, name)
    SELECT n + 1, n + 1, 'agent' FROM generate_series(0, %(agents)s - 1) n""",
    """INSERT INTO agent_group_authorizations (agent_id, group_id, config)
    SELECT n + 1, n %% %(roots)s + 1, '{"default_namespace": "default"}'
    FROM generate_series(0, %(agents)s - 1) n""",
    """INSERT INTO agent_project_authorizations (agent_id, project_id, config)
    SELECT n %% %(agents)s + 1, n + 1, '{"default_namespace": "default"}'
    FROM generate_series(0, %(shares)s - 1) n""",
    """INSERT INTO p_ci_builds
      (id, partition_id, type, status, project_id, commit_id, user_id, protected, timeout,
       started_at)
    SELECT n + 1, 100, 'Ci::Build', 'running', n %% %(projects)s + 1, n + 1, n %% %(users)s + 1,
      true, 86400, now() AT TIME ZONE 'UTC'
    FROM generate_series(0, %(jobs)s - 1) n""",
    """INSERT INTO p_ci_builds_metadata (build_id, partition_id, project_id,
      expanded_environment_name)
    SELECT n + 1, 100, n %% %(projects)s + 1, 'env-' || n %% %(environments)s
    FROM generate_series(0, %(jobs)s - 1) n""",
)


class Size(NamedTuple):
    """Numbers of rows of each table."""

    users: int
    groups: int
    projects: int
    environments: int
    members: int
    shares: int
    agents: int
    jobs: int

    @property
    def rows(self) -> int:
        """All rows that the bridge reads."""
        routes = self.groups + self.projects
        return sum(self) + routes + self.shares + self.agents + self.jobs


def size_of(rows: int) -> Size:
    """Return the numbers that make some `rows` rows."""
    users = int(rows / ROWS_PER_USER)
    return Size(
        users=users, groups=max(3 * ROOTS, users // 4), projects=users, environments=2 * users,
        members=MEMBERS_PER_USER * users, shares=users // 40, agents=ROOTS, jobs=users * 3 // 8,
    )  # fmt: skip


def fill(connection: Any, size: Size) -> None:
    """Insert the rows."""
    with connection.transaction():
        for statement in _STATEMENTS:
            connection.execute(statement, size._asdict() | {"roots": ROOTS})
    connection.execute("VACUUM ANALYZE")
