"""The comparison of what is due with what was told: events into the outbox, set by set.

Only dirty rows are compared. Kind follows kind, since memberships are due where their group or
project is told. An entity gets at most one event: all events of a comparison have the same
`sequence`, and a worker takes only the first one of an entity.
"""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

from projector.gitlab.mapping.acceptance import Acceptance, Refusal
from projector.gitlab.mapping.due import DUE, KINDS
from projector.gitlab.mapping.due_agents import empty_configuration

_SCOPES: Final = ("group", "project")
_MEMBERSHIPS: Final = ("owner", "member", "group_share", "project_share")
_STARTS: Final = 9  # behind all removals

_KEY: Final = "kind, a, b, via, root"
_FACTS: Final = (
    "(kind TEXT, a INTEGER, b INTEGER, via TEXT, root TEXT, data TEXT,"
    f" PRIMARY KEY ({_KEY})) WITHOUT ROWID"
)
# `gone`: told and not due. `later`: events behind all others. `scopes`: groups and projects that
# came or went.
_TABLES: Final = (
    f"due {_FACTS}",
    f"gone {_FACTS}",
    "later (number INTEGER PRIMARY KEY, place INTEGER, type TEXT, root TEXT, data TEXT)",
    "scopes (a INTEGER, kind TEXT, root TEXT, went INTEGER,"
    " PRIMARY KEY (a, kind, root, went)) WITHOUT ROWID",
)

_SAME: Final = "t.kind = d.kind AND t.a = d.a AND t.b = d.b AND t.via = d.via AND t.root = d.root"
_IS_TOLD: Final = f"EXISTS (SELECT 1 FROM told t WHERE {_SAME})"
_IS_UNCHANGED: Final = f"EXISTS (SELECT 1 FROM told t WHERE {_SAME} AND t.data = d.data)"
# One SELECT for each form of `dirty`, so that both use the key of `told`.
_TOLD: Final = (
    "FROM dirty d CROSS JOIN told t ON t.kind = d.kind AND t.a = d.a"
    " WHERE d.kind = :kind AND d.b = 0",
    "FROM dirty d CROSS JOIN told t ON t.kind = d.kind AND t.a = d.a AND t.b = d.b"
    " WHERE d.kind = :kind AND d.b <> 0",
)
_REFUSE: Final = (
    f"UPDATE due AS d SET data = accepted(kind, a, root, data) WHERE NOT {_IS_UNCHANGED}",
    "DELETE FROM due WHERE data IS NULL",
)
# Not with IN: SQLite would go through all builds for each row.
_IS_LIVE: Final = "EXISTS (SELECT 1 FROM p_ci_builds x WHERE x.id = {}.a)".format
# A job keeps its first root, and starts once. Its data is empty once it has left that root.
_LEAVE_OUT_PINNED: Final = (
    "DELETE FROM due AS d WHERE EXISTS (SELECT 1 FROM told t WHERE t.kind = 'job' AND t.a = d.a"
    " AND (t.data = '' OR t.root <> d.root))"
)
# These rows of `told` are due whatever the mirror has, with this data.
_KEPT: Final = {
    "user": "rtrim(t.data)",  # a worker has no event for a user who is gone
    "configuration": empty_configuration("t.a"),
}
_NOTE_SCOPES: Final = (
    f"INSERT INTO scopes SELECT a, kind, root, 0 FROM due d WHERE NOT {_IS_TOLD}",
    "INSERT INTO scopes SELECT a, kind, root, 1 FROM gone",
)
_DIRTY: Final = "INSERT OR IGNORE INTO dirty SELECT"
_MARK_MEMBERS: Final = (
    f"{_DIRTY} 'member', m.id, 0 FROM scopes s CROSS JOIN members m ON m.source_id = s.a"
    " AND m.source_type = CASE s.kind WHEN 'group' THEN 'Namespace' ELSE 'Project' END",
    f"{_DIRTY} 'owner', a, 0 FROM scopes WHERE kind = 'project'",
    f"{_DIRTY} 'group_share', l.id, 0 FROM scopes s CROSS JOIN group_group_links l"
    " ON l.shared_group_id = s.a WHERE s.kind = 'group'",
    f"{_DIRTY} 'project_share', l.id, 0 FROM scopes s CROSS JOIN project_group_links l"
    " ON l.project_id = s.a WHERE s.kind = 'project'",
)
# What `member.removed` needs of the data of `member.set`.
_MEMBER: Final = "json_remove(t.data, '$.role', '$.expires_at')"
_GROUP: Final = "json_extract({0}.data, '$.group_id')".format
_SCOPE: Final = f"{_GROUP('{0}')}, json_extract({{0}}.data, '$.project_id')".format
# The memberships of a removed group or project end with it.
_GOES_ALONG: Final = (
    f"EXISTS (SELECT 1 FROM scopes s WHERE s.a = coalesce({_SCOPE('t')}) AND s.root = t.root"
    f" AND s.kind = iif({_GROUP('t')} IS NULL, 'project', 'group') AND s.went = 1)"
)


class Comparisons:
    """Comparisons of due and told rows on one connection.

    Its tables and its function are made once: after each change SQLite prepares all statements
    anew, which takes longer than the comparison of a small batch.
    """

    def __init__(self, db: sqlite3.Connection, refused: Callable[[Refusal], object] = bool) -> None:
        self._db = db
        self._acceptance = Acceptance(refused)
        for table in _TABLES:
            db.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table}")
        db.create_function("accepted", 4, self._acceptance)

    def compare(self, *, sequence: str, time_ms: int | None) -> int:
        """Write the events that make what was told into what is due; return their number.

        `sequence` must be above that of each earlier comparison. Calls `refused` for each row
        that counts as not there. Empties `dirty`.
        """
        self._acceptance.begin(sequence, time_ms)
        comparison = _Comparison(self._db, sequence, time_ms)
        for kind in KINDS:
            if self._db.execute("SELECT 1 FROM dirty WHERE kind = ? LIMIT 1", [kind]).fetchone():
                comparison.compare_kind(kind)
            if kind == _SCOPES[-1]:
                comparison.mark_members()
        return comparison.finish()


def compare(
    db: sqlite3.Connection,
    *,
    sequence: str,
    time_ms: int | None,
    refused: Callable[[Refusal], object] = bool,
) -> int:
    """Compare once on a connection that is used for nothing else; see Comparisons."""
    return Comparisons(db, refused).compare(sequence=sequence, time_ms=time_ms)


def facts(db: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """Iterate over all that was told, as type, root and data of events."""
    rows = db.execute("SELECT kind, root, data FROM told WHERE data <> ''")
    return ((KINDS[kind].set, root, data) for kind, root, data in rows)


class _Comparison:
    """One comparison, in the transaction that the caller opened."""

    def __init__(self, db: sqlite3.Connection, sequence: str, time_ms: int | None) -> None:
        self._db = db
        self._sequence = sequence
        self._time = time_ms
        self._events = 0

    def compare_kind(self, kind: str) -> None:
        """Compare the dirty rows of a kind."""
        self._fill(kind)
        if kind in _SCOPES:
            self._run(*_NOTE_SCOPES)
        if kind == "job":
            self._finish_jobs()
        else:
            self._remove(kind)
        self._set(kind)
        self._run("DELETE FROM due", "DELETE FROM gone")

    def mark_members(self) -> None:
        """Mark the memberships in groups and projects that came or went."""
        if self._db.execute("SELECT 1 FROM scopes LIMIT 1").fetchone():
            self._run(*_MARK_MEMBERS)

    def finish(self) -> int:
        """Write the events that follow all others; return the number of all."""
        self._send("later ORDER BY place, number")
        self._run("DELETE FROM later", "DELETE FROM scopes", "DELETE FROM dirty")
        return self._events

    def _run(self, *statements: str, **values: object) -> None:
        for statement in statements:
            self._db.execute(statement, values)

    def _send(self, rows: str, **values: object) -> None:
        values |= {"sequence": self._sequence, "time": self._time}
        self._events += self._db.execute(
            "INSERT INTO outbox (type, root, sequence, time, data)"
            f" SELECT type, root, :sequence, :time, data FROM {rows}",
            values,
        ).rowcount

    def _fill(self, kind: str) -> None:
        """Leave in `due` what is new or different, and in `gone` what is told and not due."""
        self._run(f"INSERT OR IGNORE INTO due SELECT '{kind}', * FROM ({DUE[kind]})")
        if kind == "job":
            self._run(_LEAVE_OUT_PINNED)
        self._run(*_REFUSE)
        for told in _TOLD:
            if kind in _KEPT:
                self._run(
                    "INSERT OR IGNORE INTO due SELECT t.kind, t.a, t.b, t.via, t.root,"
                    f" {_KEPT[kind]} {told}",
                    kind=kind,
                )
            self._run(
                f"INSERT OR IGNORE INTO gone SELECT t.* {told}"
                f" AND NOT EXISTS (SELECT 1 FROM due x WHERE {_SAME.replace('d.', 'x.')})",
                kind=kind,
            )
        self._run(f"DELETE FROM due AS d WHERE {_IS_UNCHANGED}")

    def _set(self, kind: str) -> None:
        event = KINDS[kind].set
        if kind == "job":
            self._defer("SELECT root, data FROM due", event, _STARTS)
        else:
            self._send("(SELECT :type AS type, * FROM due)", type=event)
        self._run("INSERT OR REPLACE INTO told SELECT * FROM due")

    def _defer(self, select: str, event: str, place: int) -> None:
        self._run(
            "INSERT INTO later (place, type, root, data)"
            f" SELECT :place, :type, root, data FROM ({select})",
            place=place, type=event,
        )  # fmt: skip

    def _remove(self, kind: str) -> None:
        _, event, place = KINDS[kind]
        if kind in _MEMBERSHIPS:
            # A row that moved to another group or project has the same key, but is another entity.
            moved = (
                f"due d CROSS JOIN told t ON {_SAME} WHERE ({_SCOPE('t')}) IS NOT ({_SCOPE('d')})"
            )
            ended = (f"gone t WHERE NOT {_GOES_ALONG}", f"{moved} AND NOT {_GOES_ALONG}")
            for rows in ended:
                self._defer(f"SELECT t.root, {_MEMBER} AS data FROM {rows}", event, place)
        else:
            self._defer("SELECT root, json_object('id', a) AS data FROM gone", event, place)
        self._run(f"DELETE FROM told WHERE ({_KEY}) IN (SELECT {_KEY} FROM gone)")

    def _finish_jobs(self) -> None:
        """Finish jobs, those for good that run on under another root."""
        finished = "SELECT :type AS type, root, json_object('id', a) AS data FROM gone"
        self._send(f"({finished} WHERE gone.data <> '')", type=KINDS["job"].removed)
        gone = f"({_KEY}) IN (SELECT {_KEY} FROM gone WHERE {{}} {_IS_LIVE('gone')})".format
        self._run(
            f"UPDATE told SET data = '' WHERE {gone('')}",
            f"DELETE FROM told WHERE {gone('NOT')}",
        )
