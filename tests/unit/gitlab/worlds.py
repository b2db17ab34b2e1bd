"""Small random worlds: rows of GitLab's tables over few ids, so that most of them meet."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from projector.gitlab.mapping.tables import TABLES, Change, Row, Value

GROUPS, PROJECTS, USERS = range(1, 8), range(1, 6), range(1, 5)
AGENTS, BUILDS = range(1, 5), range(1, 5)
ENVIRONMENTS = ("production", "review/1", "nowhere")
LEVELS = (5, 20, 30, 40, 50)
EXPIRIES = (None, None, "2031-01-31", "2032-01-31")
CONFIGS = ("{}", '{"default_namespace": "shop"}', '{"environments": ["production"]}')
STARTED = "2026-11-28 10:00:00"


class Choices(NamedTuple):
    """The ids of a table, and the values of its columns; choices that stand often come often."""

    ids: range
    columns: dict[str, tuple[Value, ...]]
    weight: int = 1


def _often(value: Value, *others: Value) -> tuple[Value, ...]:
    return (value,) * 9 * len(others) + others


WORLD: dict[str, Choices] = {
    "users": Choices(
        USERS,
        {"username": ("ada", "grace", "alan"), "state": ("active", "active", "blocked")},
    ),
    "namespaces": Choices(
        GROUPS,
        {
            "type": ("Group",) * 10 + ("User",) * 3 + ("Project",),
            "parent_id": (None, None, None, *GROUPS, 99),
            "owner_id": (None, *USERS),
            "share_with_group_lock": (0, 0, 0, 1),
        },
        3,
    ),
    "projects": Choices(
        PROJECTS,
        {"namespace_id": (*GROUPS, 99), "pending_delete": (0, 0, 0, None, 1)},
        2,
    ),
    "routes": Choices(range(1, 16), {}, 2),
    "members": Choices(
        range(1, 13),
        {
            "access_level": LEVELS,
            "source_id": (*GROUPS,),
            "source_type": ("Namespace", "Namespace", "Project"),
            "user_id": (*USERS, *USERS, None),
            "requested_at": _often(None, STARTED),
            "expires_at": EXPIRIES,
            "state": _often(0, 1),
        },
        3,
    ),
    "group_group_links": Choices(
        range(1, 5),
        {
            "shared_group_id": (*GROUPS,),
            "shared_with_group_id": (*GROUPS,),
            "group_access": LEVELS,
            "expires_at": EXPIRIES,
        },
        2,
    ),
    "project_group_links": Choices(
        range(1, 6),
        {
            "project_id": (*PROJECTS,),
            "group_id": (*GROUPS,),
            "group_access": LEVELS,
            "expires_at": EXPIRIES,
        },
        2,
    ),
    "cluster_agents": Choices(AGENTS, {"project_id": (*PROJECTS,), "name": ("a", "b")}),
    "agent_project_authorizations": Choices(
        range(1, 6), {"project_id": (*PROJECTS,), "agent_id": (*AGENTS,), "config": CONFIGS}
    ),
    "agent_group_authorizations": Choices(
        range(1, 6), {"group_id": (*GROUPS,), "agent_id": (*AGENTS,), "config": CONFIGS}
    ),
    "agent_organization_authorizations": Choices(
        range(1, 3), {"agent_id": (*AGENTS,), "config": CONFIGS}
    ),
    "environments": Choices(
        range(1, 7),
        {
            "project_id": (*PROJECTS,),
            "name": ENVIRONMENTS[:2],
            "slug": ("production", "review-1"),
            "tier": (0, 3, None),
        },
    ),
    "p_ci_builds": Choices(
        BUILDS,
        {
            "status": _often("running", "pending", "canceling", "success"),
            "type": _often("Ci::Build", "Ci::Bridge"),
            "project_id": (*PROJECTS,),
            "commit_id": (1, 2),
            "user_id": (*USERS,),
            "protected": (0, 1, None),
            "timeout": (3600, None),
            "started_at": (STARTED,),
            "token_sha256": (None,),
        },
    ),
    "job_environments": Choices(
        range(1, 4), {"ci_job_id": (*BUILDS,), "expanded_environment_name": ENVIRONMENTS}
    ),
    "p_ci_builds_metadata": Choices(
        range(1, 6), {"build_id": (*BUILDS,), "expanded_environment_name": (*ENVIRONMENTS, None)}
    ),
}


# Values whose events a worker would refuse.
HOSTILE: dict[tuple[str, str], Value] = {
    ("users", "username"): None,
    ("routes", "path"): None,
    ("members", "access_level"): 99,
    ("cluster_agents", "name"): "",
    ("agent_project_authorizations", "config"): "[]",
    ("agent_group_authorizations", "config"): "null",
    ("environments", "slug"): None,
}
_OFTEN = [table for table, choices in WORLD.items() for _ in range(choices.weight)]


class World:
    """A GitLab's rows, changed at random."""

    def __init__(self, seed: int, *, hostile: bool = False) -> None:
        self._hostile = hostile
        self.random = random.Random(seed)
        self.rows: dict[str, dict[int, Row]] = {table: {} for table in TABLES}

    def seeded(self) -> list[Change]:
        """Fill most ids of each table."""
        return [
            change
            for table, choices in WORLD.items()
            for row_id in choices.ids
            if self.random.random() < 0.9
            for change in self._set(table, row_id, self._new_row(table, row_id))
        ]

    def batch(self, focus: Sequence[str] = ()) -> list[Change]:
        """Change one row, or a few; mostly of the tables in focus."""
        found: list[Change] = []
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            focused = focus and self.random.random() < 0.7
            found += self.change(self.random.choice(focus if focused else _OFTEN))
        return found

    def change(self, table: str) -> Iterator[Change]:
        row_id = self.random.choice(WORLD[table].ids)
        row = self.rows[table].get(row_id)
        dice = self.random.random()
        if row is None:
            yield from self._set(table, row_id, self._new_row(table, row_id))
        elif dice < 0.15:
            yield from self._set(table, row_id, None)
        elif dice < 0.3 or not WORLD[table].columns:
            yield from self._set(table, row_id, self._new_row(table, row_id))
        else:
            yield from self._set(table, row_id, self._altered(table, row))

    def _set(self, table: str, row_id: int, row: Row | None) -> Iterator[Change]:
        inserted = row_id not in self.rows[table]
        if row is None:
            self.rows[table].pop(row_id, None)
        else:
            self.rows[table][row_id] = row
        yield Change(table, row_id, row, inserted)

    def _new_row(self, table: str, row_id: int) -> Row:
        if table == "routes":
            return self._route(row_id)
        return (row_id, *(self._value(table, name) for name in list(TABLES[table].columns)[1:]))

    def _value(self, table: str, column: str) -> Value:
        if self._hostile and (table, column) in HOSTILE and self.random.random() < 0.15:
            return HOSTILE[table, column]
        return self.random.choice(WORLD[table].columns[column])

    def _route(self, row_id: int) -> Row:
        """Return a route of a group or project; the id says of which, so that most have one."""
        path: Value = f"p{self.random.randrange(3)}/r{row_id}"
        if self._hostile and self.random.random() < 0.15:
            path = HOSTILE["routes", "path"]
        if row_id <= len(GROUPS):
            return (row_id, row_id, "Namespace", path)
        kind = self.random.choice(("Project",) * 9 + ("Other",))
        return (row_id, row_id - len(GROUPS), kind, path)

    def _altered(self, table: str, row: Row) -> Row:
        values = list(row)
        at = self.random.randrange(1, len(values))
        values[at] = self._value(table, list(TABLES[table].columns)[at])
        return tuple(values)
