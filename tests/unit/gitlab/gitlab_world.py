"""A mirror of a small GitLab in memory, with what it tells of."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from projector.gitlab.mapping import mirror_tables, roots
from projector.gitlab.mapping.acceptance import Refusal
from projector.gitlab.mapping.comparison import compare
from projector.gitlab.mapping.due import EVERYTHING

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE told (kind TEXT, a INTEGER, b INTEGER, via TEXT, root TEXT, data TEXT,
    PRIMARY KEY (kind, a, b, via, root)) WITHOUT ROWID;
CREATE TABLE outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT, root TEXT, sequence TEXT,
    time INTEGER, data TEXT);
CREATE TEMP TABLE dirty (kind TEXT, a INTEGER, b INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, a, b)) WITHOUT ROWID;
"""
DEFAULTS: dict[str, dict[str, Any]] = {
    "users": {"state": "active"},
    "namespaces": {"type": "Group", "share_with_group_lock": 0},
    "projects": {"pending_delete": 0},
    "members": {"access_level": 30, "source_type": "Namespace", "state": 0},
    "group_group_links": {"group_access": 30},
    "project_group_links": {"group_access": 30},
    "p_ci_builds": {
        "status": "running", "type": "Ci::Build", "commit_id": 2000, "protected": 0,
        "timeout": 3600, "started_at": "2026-11-29 00:00:00.123456",
    },
}  # fmt: skip


class Told(NamedTuple):
    """An event of the outbox, as tests compare it."""

    type: str
    root: str
    data: Any


class GitLab:
    """The rows of a GitLab; `compare` returns the events of everything that changed."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(SCHEMA)
        mirror_tables.create(self.db)
        roots.create(self.db)
        self.sequence = 0
        self.refused: list[Refusal] = []

    # rows

    def add(self, table: str, row_id: int, **values: Any) -> int:
        row = {"id": row_id, **DEFAULTS.get(table, {}), **values}
        places = ", ".join("?" * len(row))
        self.db.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values())
        )
        return row_id

    def change(self, table: str, row_id: int, **values: Any) -> None:
        assigned = ", ".join(f"{name} = ?" for name in values)
        self.db.execute(f"UPDATE {table} SET {assigned} WHERE id = ?", [*values.values(), row_id])

    def delete(self, table: str, row_id: int) -> None:
        self.db.execute(f"DELETE FROM {table} WHERE id = ?", [row_id])

    def group(self, row_id: int, parent: int | None = None, **values: Any) -> int:
        self.add("namespaces", row_id, parent_id=parent, **values)
        self.add("routes", 1000 + row_id, source_type="Namespace", source_id=row_id,
                 path=f"g{row_id}")  # fmt: skip
        return row_id

    def home(self, row_id: int, owner: int | None) -> int:
        return self.group(row_id, type="User", owner_id=owner)

    def project(self, row_id: int, namespace: int, **values: Any) -> int:
        self.add("projects", row_id, namespace_id=namespace, **values)
        self.add("routes", 5000 + row_id, source_type="Project", source_id=row_id,
                 path=f"p{row_id}")  # fmt: skip
        return row_id

    def user(self, row_id: int, **values: Any) -> int:
        return self.add("users", row_id, **{"username": f"u{row_id}", **values})

    def member(self, row_id: int, user: int, group: int, **values: Any) -> int:
        return self.add("members", row_id, user_id=user, source_id=group, **values)

    def agent(self, row_id: int, project: int, **values: Any) -> int:
        name = values.pop("name", f"a{row_id}")
        return self.add("cluster_agents", row_id, project_id=project, name=name)

    def grant(self, row_id: int, agent: int, config: Any = None, **target: int) -> int:
        kind = "project" if "project_id" in target else "group"
        text = config if isinstance(config, str) else json.dumps(config or {})
        return self.add(f"agent_{kind}_authorizations", row_id, agent_id=agent, config=text,
                        **target)  # fmt: skip

    def job(self, row_id: int, project: int, user: int, **values: Any) -> int:
        return self.add("p_ci_builds", row_id, project_id=project, user_id=user, **values)

    def setting(self, value: int | None) -> None:
        """Set GitLab's setting about agents across root namespaces; None: it has no settings."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('organization_agents', ?)", [value])

    # comparisons

    def mark_everything(self) -> None:
        for kind, select in EVERYTHING.items():
            self.db.execute(f"INSERT OR IGNORE INTO dirty SELECT '{kind}', id, 0 FROM ({select})")
        self.db.execute("INSERT OR IGNORE INTO dirty SELECT DISTINCT kind, a, 0 FROM told")

    def mark(self, kind: str, row_id: int, user: int = 0) -> None:
        self.db.execute("INSERT OR IGNORE INTO dirty VALUES (?, ?, ?)", [kind, row_id, user])

    def compare(self, *kinds: str) -> list[Told]:
        """Compare everything; return the events, of these kinds of types if any are given."""
        self.mark_everything()
        events = self.compare_dirty()
        return [event for event in events if not kinds or event.type.startswith(kinds)]

    def compare_dirty(self, refused: Callable[[Refusal], object] | None = None) -> list[Told]:
        roots.work_out_all(self.db)
        self.sequence += 1
        before = self.last_number()
        count = compare(self.db, sequence=f"{self.sequence:030}", time_ms=None,
                        refused=refused or self.refused.append)  # fmt: skip
        rows = self.db.execute(
            "SELECT type, root, data FROM outbox WHERE number > ? ORDER BY number", [before]
        ).fetchall()
        assert count == len(rows)
        return [Told(kind, root, json.loads(data)) for kind, root, data in rows]

    def last_number(self) -> int:
        row = self.db.execute("SELECT coalesce(max(number), 0) FROM outbox").fetchone()
        return int(row[0])

    def told(self) -> set[tuple[Any, ...]]:
        return set(self.db.execute("SELECT * FROM told"))
