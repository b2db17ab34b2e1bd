"""The company as a whole: its first rows, its random transactions, and where its jobs began."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Final

import psycopg

from tests.integration.gitlab.company import agents, jobs, people, tree
from tests.integration.gitlab.company.session import RegretError, Session

WEIGHTS: Final = tree.WEIGHTS | people.WEIGHTS | agents.WEIGHTS | jobs.WEIGHTS
ACTS: Final = tuple(WEIGHTS)
CUMULATIVE: Final = tuple(accumulate(WEIGHTS.values()))
ROOTS: Final = """
WITH RECURSIVE up (project, id, parent_id) AS (
  SELECT p.id, n.id, n.parent_id FROM projects p JOIN namespaces n ON n.id = p.namespace_id
    WHERE p.id = ANY (%s)
  UNION ALL
  SELECT project, n.id, n.parent_id FROM up JOIN namespaces n ON n.id = up.parent_id)
SELECT project, id AS root FROM up WHERE parent_id IS NULL
"""


class Company(Session):
    """GitLab's users at work. It remembers what no table keeps: under which root a job began."""

    homes: dict[int, int | None]
    strayed: set[int]

    def __init__(self, seed: int, main: str, ci: str | None = None) -> None:
        super().__init__(seed, main, ci)
        self.homes, self.strayed = {}, set()
        self.commits = 0

    def found(self, users: int = 25, groups: int = 14, projects: int = 22) -> None:
        """Write the first rows."""
        with self.transaction():
            for _ in range(users):
                people.new_user(self)
            for _ in range(3):
                tree.new_group(self)
            for _ in range(groups):
                tree.new_subgroup(self)
            for _ in range(projects):
                tree.new_project(self)
        for act, times in (
            (people.join, 2 * users), (people.share_group, 4), (people.share_project, 5),
            (agents.new_agent, projects // 2), (agents.grant, 3 * projects),
            (agents.share_with_instance, 2), (jobs.start_job, 2 * projects),
        ):  # fmt: skip
            with self.transaction():
                for _ in range(times):
                    act(self)
        self.watch()

    def set_cross_root_grants(self, on: bool) -> None:
        """Let the instance's administrator allow grants across top-level groups, or forbid them."""
        self.rows(
            "UPDATE application_settings SET cluster_agents = jsonb_build_object("
            "'organization_cluster_agent_authorization_enabled', %s::bool)", on,
        )  # fmt: skip

    def change(self, times: int = 1) -> None:
        """Change the database at random, in this many transactions."""
        for _ in range(times):
            self.transact(self.random.choices(ACTS, cum_weights=CUMULATIVE, k=self._acts()))

    def _acts(self) -> int:
        return self.choice(1, 1, 1, 1, 2, 4)

    def change_or_reconnect(self) -> None:
        """Change the database; where the connection was cut, get another one."""
        try:
            self.change()
        except psycopg.OperationalError:
            self.reconnect()
            self.watch()

    def transact(self, acts: Iterable[tree.Act]) -> None:
        """Run acts as one transaction, with savepoints; rarely GitLab rolls back."""
        with self.transaction():
            for act in acts:
                with self.transaction():
                    act(self)
                    if self.chance(0.03):
                        raise RegretError
            if self.chance(0.04):
                raise RegretError
        self.commits += 1
        self.watch()

    def watch(self) -> None:
        """Note the jobs whose project has left the root where they began, even for a while."""
        live = self.rows(f"SELECT id, project_id FROM {jobs.LIVE} AND type = 'Ci::Build'")
        projects = list({row["project_id"] for row in live})
        roots = {row["project"]: row["root"] for row in self.rows(ROOTS, projects)}
        for row in live:
            root = roots.get(row["project_id"])
            if root != self.homes.setdefault(row["id"], root):
                self.strayed.add(row["id"])
