"""The tables and columns of GitLab's database that the bridge reads, and their rows and changes."""

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple


class Unchanged(enum.Enum):
    """A large value that PostgreSQL did not send, because an UPDATE left it as it was."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED

# Integers as int, booleans as 0 or 1, all else as text. Dates and timestamps are ISO text in UTC.
Value = int | str | Unchanged | None
Row = tuple[Value, ...]


class Change(NamedTuple):
    """One row as a transaction left it; a change of the key is two changes."""

    table: str
    id: int
    row: Row | None  # None: the row is gone
    inserted: bool = True  # False: by an UPDATE, so GitLab had the row before


class Kind(enum.Enum):
    """A kind of column, with its type in SQLite."""

    INTEGER = "INTEGER"
    BOOLEAN = "BOOLEAN"
    TEXT = "TEXT"


class Column(NamedTuple):
    """A column of the mirror, and its name in PostgreSQL."""

    kind: Kind
    source: str


# In a database of its own, where GitLab is set up so.
CI_TABLES: Final = frozenset({"p_ci_builds", "p_ci_builds_metadata"})


class Table(NamedTuple):
    """A table of GitLab, with the rows of it that the bridge needs.

    The filters are SQL that PostgreSQL and SQLite both read; "" is every row. `row_filter` is about
    the row alone. A snapshot and a poll may read fewer rows, where the table of builds decides.
    """

    name: str
    columns: dict[str, Column]
    row_filter: str = ""
    snapshot_filter: str = ""
    poll_filter: str = ""
    build: str = ""  # the column of a build's id, in a table that is read for its builds alone
    optional: bool = False  # not in every version of GitLab; a missing one counts as empty

    def read_by_snapshot(self, *, separate_ci: bool = False) -> str:
        """Return the WHERE of a snapshot, without the word."""
        return (not self._is_cut_off(separate_ci) and self.snapshot_filter) or self.row_filter

    def read_by_poll(self, live_builds: Iterable[int] | None = None) -> str:
        """Return the WHERE of a poll, without the word.

        `live_builds` are those of a database of their own; None: they are beside this table.
        """
        if live_builds is None or not self._is_cut_off(separate_ci=True):
            return self.poll_filter or self.row_filter
        if self.build:
            ids = ",".join(map(str, live_builds))
            return f"{self.build} = ANY ('{{{ids}}}'::bigint[])"
        return self.row_filter

    def _is_cut_off(self, separate_ci: bool) -> bool:
        """Return if the builds are in another database than this table."""
        return separate_ci and self.name not in CI_TABLES


def _columns(**kinds: Kind) -> dict[str, Column]:
    return {name: Column(kind, name) for name, kind in kinds.items()}


_I, _B, _T = Kind.INTEGER, Kind.BOOLEAN, Kind.TEXT

LIVE_BUILD = "status IN ('running', 'canceling') AND type = 'Ci::Build'"
# A skipped or manual build may still run, for months. GitLab then sends no row of its metadata.
# Source: the states from which app/models/concerns/ci/has_status.rb lets a build go on.
UNFINISHED_BUILD = (
    "type = 'Ci::Build' AND status IN ('created', 'waiting_for_resource', 'preparing',"
    " 'waiting_for_callback', 'pending', 'running', 'canceling', 'skipped', 'manual', 'scheduled')"
)
_WITH_ENVIRONMENT = "expanded_environment_name IS NOT NULL"


def _of_builds(condition: str) -> str:
    return f"IN (SELECT id FROM p_ci_builds WHERE {condition})"


_ALL = (
    Table("users", _columns(id=_I, username=_T, state=_T)),
    Table(
        "namespaces",
        _columns(id=_I, type=_T, parent_id=_I, owner_id=_I, share_with_group_lock=_B),
        "type IN ('Group', 'User')",
    ),
    Table("projects", _columns(id=_I, namespace_id=_I, pending_delete=_B)),
    Table(
        "routes",
        _columns(id=_I, source_id=_I, source_type=_T, path=_T),
        "source_type IN ('Namespace', 'Project')",
    ),
    Table(
        "members",
        _columns(
            id=_I,
            access_level=_I,
            source_id=_I,
            source_type=_T,
            user_id=_I,
            requested_at=_T,
            expires_at=_T,
            state=_I,
        ),
        "user_id IS NOT NULL AND source_type IN ('Namespace', 'Project')",
    ),
    Table(
        "group_group_links",
        _columns(
            id=_I, shared_group_id=_I, shared_with_group_id=_I, group_access=_I, expires_at=_T
        ),
    ),
    Table(
        "project_group_links",
        _columns(id=_I, project_id=_I, group_id=_I, group_access=_I, expires_at=_T),
    ),
    Table("cluster_agents", _columns(id=_I, project_id=_I, name=_T)),
    Table("agent_project_authorizations", _columns(id=_I, project_id=_I, agent_id=_I, config=_T)),
    Table("agent_group_authorizations", _columns(id=_I, group_id=_I, agent_id=_I, config=_T)),
    Table(
        "agent_organization_authorizations",  # since GitLab 17.11
        _columns(id=_I, agent_id=_I, config=_T),
        optional=True,
    ),
    Table("environments", _columns(id=_I, project_id=_I, name=_T, slug=_T, tier=_I)),
    Table(
        "p_ci_builds",
        {
            **_columns(
                id=_I,
                status=_T,
                type=_T,
                project_id=_I,
                commit_id=_I,
                user_id=_I,
                protected=_B,
                timeout=_I,
                started_at=_T,
            ),
            # The digest, never the encrypted token: NULL unless the bridge decrypts tokens.
            "token_sha256": Column(_T, "token_encrypted"),
        },
        LIVE_BUILD,
    ),
    Table(
        "job_environments",  # since GitLab 18.3; in the main database
        _columns(id=_I, ci_job_id=_I, expanded_environment_name=_T),
        snapshot_filter=f"ci_job_id {_of_builds(UNFINISHED_BUILD)}",
        poll_filter=f"ci_job_id {_of_builds(LIVE_BUILD)}",
        build="ci_job_id",
        optional=True,
    ),
    Table(
        "p_ci_builds_metadata",  # GitLab 19.3 drops it
        _columns(id=_I, build_id=_I, expanded_environment_name=_T),
        _WITH_ENVIRONMENT,
        snapshot_filter=f"{_WITH_ENVIRONMENT} AND build_id {_of_builds(UNFINISHED_BUILD)}",
        poll_filter=f"{_WITH_ENVIRONMENT} AND build_id {_of_builds(LIVE_BUILD)}",
        build="build_id",
        optional=True,
    ),
)

TABLES: Final = {table.name: table for table in _ALL}
