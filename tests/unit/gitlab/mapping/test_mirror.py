"""The mirror is what GitLab's rows are, in whatever pieces they come."""

import sqlite3

import pytest

from projector.errors import SnapshotNeededError
from projector.gitlab.mapping import mirror, mirror_tables
from projector.gitlab.mapping.mirror import Mirror
from projector.gitlab.mapping.mirror_tables import ENVIRONMENT_NAMES
from projector.gitlab.mapping.tables import TABLES, UNCHANGED, Change, Row, Value
from tests.unit.gitlab.worlds import World

STARTED = "2026-11-28 10:00:00"


class Tables:
    """A mirror in memory, and what it noted as changed."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        mirror_tables.create(self.db)
        self.mirror = Mirror(self.db)

    def rows(self, table: str) -> dict[int, Row]:
        columns = ", ".join(TABLES[table].columns)
        return {row[0]: row for row in self.db.execute(f"SELECT {columns} FROM {table}")}

    def all_rows(self) -> dict[str, dict[int, Row]]:
        return {table: self.rows(table) for table in TABLES}

    def changed(self, table: str) -> list[Row]:
        return self.db.execute(f"SELECT * FROM changed_{table} ORDER BY rowid").fetchall()


@pytest.fixture
def tables() -> Tables:
    return Tables()


def _set(table: str, *row: Value, inserted: bool = True) -> Change:
    assert isinstance(row[0], int)
    return Change(table, row[0], row, inserted)


def _gone(table: str, row_id: int) -> Change:
    return Change(table, row_id, None)


def _build(row_id: int, status: str, kind: str = "Ci::Build") -> Change:
    return _set("p_ci_builds", row_id, status, kind, 1, 1, 1, 0, 3600, STARTED, None)


def _kept(world: World) -> dict[str, dict[int, Row]]:
    """Return the rows that the filters of the tables let through, by SQLite itself."""
    oracle = sqlite3.connect(":memory:")
    kept: dict[str, dict[int, Row]] = {}
    for name, table in TABLES.items():
        oracle.execute(f"CREATE TABLE {name} ({', '.join(table.columns)})")
        places = ", ".join("?" * len(table.columns))
        oracle.executemany(f"INSERT INTO {name} VALUES ({places})", world.rows[name].values())
        where = f"WHERE {table.row_filter}" if table.row_filter else ""
        kept[name] = {row[0]: row for row in oracle.execute(f"SELECT * FROM {name} {where}")}
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_the_mirror_follows_random_changes(tables: Tables, seed: int) -> None:
    world = World(seed)
    tables.mirror.apply(world.seeded())
    for _ in range(200):
        tables.mirror.apply(world.batch())
    found, expected = tables.all_rows(), _kept(world)
    for table in TABLES:
        if table not in ENVIRONMENT_NAMES:  # their rows go with the build
            assert found[table] == expected[table], table


@pytest.mark.parametrize("seed", range(3))
def test_changes_in_pieces_give_the_mirror_of_one_batch(tables: Tables, seed: int) -> None:
    world, together = World(seed), Tables()
    batches = [world.seeded(), *(world.batch() for _ in range(100))]
    changes = [c for batch in batches for c in batch if c.table not in ENVIRONMENT_NAMES]
    for change in changes:
        tables.mirror.apply([change])
    together.mirror.apply(changes)
    assert tables.all_rows() == together.all_rows()


@pytest.mark.parametrize("seed", range(3))
def test_a_replaced_table_is_as_if_its_changes_were_applied(tables: Tables, seed: int) -> None:
    world, applied = World(seed), Tables()
    for number in range(30):
        applied.mirror.apply(world.batch() if number else world.seeded())
        for table in TABLES:
            tables.mirror.replace(table, world.rows[table].values())
            if table not in ENVIRONMENT_NAMES:
                assert tables.rows(table) == applied.rows(table)
                assert set(tables.changed(table)) == set(applied.changed(table))
        tables.mirror.forget_changes()
        applied.mirror.forget_changes()


def test_a_replaced_table_may_have_more_rows_than_a_piece(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_CHUNK", 3)
    tables.mirror.replace("users", [(n, "ada", "active") for n in range(1, 11)])
    tables.mirror.forget_changes()
    tables.mirror.replace("users", [(n, "ada", "active") for n in range(2, 12)])
    assert sorted(tables.rows("users")) == list(range(2, 12))
    assert tables.changed("users") == [(11, "ada", "active"), (1, "ada", "active")]


def test_old_and_new_versions_of_a_row_are_noted(tables: Tables) -> None:
    tables.mirror.apply([_set("users", 1, "ada", "active"), _set("users", 2, "alan", "active")])
    assert tables.changed("users") == [(1, "ada", "active"), (2, "alan", "active")]
    tables.mirror.forget_changes()
    tables.mirror.apply([_set("users", 1, "ada", "blocked"), _gone("users", 2)])
    assert tables.changed("users") == [
        (1, "ada", "active"),
        (2, "alan", "active"),
        (1, "ada", "blocked"),
    ]


def test_a_row_that_stays_the_same_is_no_change(tables: Tables) -> None:
    tables.mirror.apply([_set("users", 1, "ada", None)])
    tables.mirror.forget_changes()
    tables.mirror.apply([_set("users", 1, "ada", None), _gone("users", 7)])
    assert tables.mirror.changed == set()
    assert tables.changed("users") == []


def test_a_row_that_fails_the_filter_counts_as_gone(tables: Tables) -> None:
    tables.mirror.apply([_build(1, "running")])
    tables.mirror.forget_changes()
    tables.mirror.apply([_build(1, "success")])
    assert tables.rows("p_ci_builds") == {}
    assert [row[:2] for row in tables.changed("p_ci_builds")] == [(1, "running")]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("members", (1, 30, 1, "Namespace", None, None, None, 0)),
        ("members", (1, 30, 1, "Other", 1, None, None, 0)),
        ("namespaces", (1, "Project", None, None, 0)),
        ("namespaces", (1, None, None, None, 0)),
        ("routes", (1, 1, "Redirect", "a")),
        ("p_ci_builds", (1, "pending", "Ci::Build", 1, 1, 1, 0, 1, STARTED, None)),
        ("p_ci_builds", (1, "running", "Ci::Bridge", 1, 1, 1, 0, 1, STARTED, None)),
        ("p_ci_builds_metadata", (1, 1, None)),
    ],
)
def test_rows_that_nothing_needs_are_not_kept(tables: Tables, table: str, row: Row) -> None:
    tables.mirror.apply([_set(table, *row)])
    assert tables.rows(table) == {}
    assert tables.mirror.load(table, [row]) == 0
    assert tables.rows(table) == {}
    tables.mirror.replace(table, [row])
    assert tables.rows(table) == {}


# values that did not travel


def test_an_unsent_value_is_that_of_the_mirror(tables: Tables) -> None:
    table = "agent_project_authorizations"
    tables.mirror.apply([_set(table, 1, 1, 1, "{}")])
    tables.mirror.apply([_set(table, 1, 2, 1, UNCHANGED, inserted=False)])
    assert tables.rows(table) == {1: (1, 2, 1, "{}")}


def test_an_unsent_value_is_that_of_an_earlier_change(tables: Tables) -> None:
    table = "agent_project_authorizations"
    tables.mirror.apply(
        [
            _set(table, 1, 1, 1, "{}"),
            _set(table, 1, 1, 1, '{"a": 1}', inserted=False),
            _set(table, 1, 2, 1, UNCHANGED, inserted=False),
            _set(table, 1, 3, 1, UNCHANGED, inserted=False),
        ]
    )
    assert tables.rows(table) == {1: (1, 3, 1, '{"a": 1}')}


def test_an_unsent_value_of_an_unknown_row_needs_a_snapshot(tables: Tables) -> None:
    with pytest.raises(SnapshotNeededError, match="agent_project_authorizations 1"):
        tables.mirror.apply([_set("agent_project_authorizations", 1, 1, 1, UNCHANGED)])


def test_a_change_after_a_deletion_has_no_value_to_take(tables: Tables) -> None:
    table = "agent_project_authorizations"
    with pytest.raises(SnapshotNeededError):
        tables.mirror.apply([_gone(table, 1), _set(table, 1, 2, 1, UNCHANGED)])


def test_an_unsent_value_of_a_row_that_nothing_needs_is_nothing(tables: Tables) -> None:
    row = (1, "success", "Ci::Build", 1, 1, 1, 0, 1, STARTED, UNCHANGED)
    tables.mirror.apply([_set("p_ci_builds", *row, inserted=False)])
    assert tables.rows("p_ci_builds") == {}


def test_an_unsent_token_of_a_build_that_begins_to_run_needs_a_snapshot(tables: Tables) -> None:
    row = (1, "running", "Ci::Build", 1, 1, 1, 0, 1, STARTED, UNCHANGED)
    with pytest.raises(SnapshotNeededError):
        tables.mirror.apply([_set("p_ci_builds", *row, inserted=False)])


# environments of builds


@pytest.fixture(params=list(ENVIRONMENT_NAMES))
def names(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_name_waits_for_its_build(tables: Tables, names: str) -> None:
    tables.mirror.apply([_build(1, "created"), _set(names, 1, 1, "production")])
    for status in ("manual", "skipped", "created", "pending", "running", "canceling"):
        tables.mirror.apply([_build(1, status)])
    assert tables.rows(names) == {1: (1, 1, "production")}


@pytest.mark.parametrize("status", ["success", "failed", "canceled"])
def test_a_name_goes_when_its_build_ends(tables: Tables, names: str, status: str) -> None:
    tables.mirror.apply([_build(1, "running"), _set(names, 1, 1, "production")])
    tables.mirror.apply([_build(1, status)])
    assert tables.rows(names) == {}


def test_a_name_of_a_build_that_ran_within_one_batch_does_not_stay(
    tables: Tables, names: str
) -> None:
    tables.mirror.apply(
        [_build(1, "created"), _set(names, 1, 1, "production"), _build(1, "success")]
    )
    assert tables.rows(names) == {}


def test_a_name_goes_with_a_deleted_build(tables: Tables, names: str) -> None:
    tables.mirror.apply([_build(1, "manual"), _set(names, 1, 1, "production")])
    tables.mirror.apply([_gone("p_ci_builds", 1)])
    assert tables.rows(names) == {}


def test_a_name_that_is_updated_after_the_end_does_not_return(tables: Tables, names: str) -> None:
    tables.mirror.apply([_build(1, "running"), _set(names, 1, 1, "production")])
    tables.mirror.apply([_build(1, "success")])
    tables.mirror.apply([_set(names, 1, 1, "production", inserted=False)])
    assert tables.rows(names) == {}


def test_a_name_that_a_running_build_gets_is_kept(tables: Tables, names: str) -> None:
    tables.mirror.apply([_build(1, "running")])
    tables.mirror.apply([_set(names, 1, 1, "production", inserted=False)])
    assert tables.rows(names) == {1: (1, 1, "production")}


def test_a_name_that_is_updated_where_it_was_inserted_waits(tables: Tables, names: str) -> None:
    tables.mirror.apply(
        [_set(names, 1, 1, "review"), _set(names, 1, 1, "production", inserted=False)]
    )
    assert tables.rows(names) == {1: (1, 1, "production")}


def test_a_name_of_a_job_that_triggers_a_pipeline_is_not_kept(tables: Tables, names: str) -> None:
    tables.mirror.apply([_set(names, 1, 1, "production"), _build(1, "created", "Ci::Bridge")])
    assert tables.rows(names) == {}


def test_a_snapshot_reads_names_of_builds_that_may_still_run() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE p_ci_builds (id, status, type)")
    statuses = ("manual", "skipped", "running", "success", "failed", "canceled")
    db.executemany("INSERT INTO p_ci_builds VALUES (?, ?, 'Ci::Build')", enumerate(statuses))
    db.execute("INSERT INTO p_ci_builds VALUES (9, 'running', 'Ci::Bridge')")
    for name, build in ENVIRONMENT_NAMES.items():
        table = TABLES[name]
        db.execute(f"CREATE TABLE {name} (id, {build}, expanded_environment_name)")
        db.executemany(f"INSERT INTO {name} VALUES (?1, ?1, 'x')", [(n,) for n in range(10)])
        read = f"SELECT id FROM {name} WHERE "
        assert db.execute(read + table.read_by_snapshot()).fetchall() == [(0,), (1,), (2,)]
        assert db.execute(read + table.read_by_poll()).fetchall() == [(2,)]


def test_no_filter_asks_for_builds_of_another_database() -> None:
    for table in TABLES.values():
        apart = table.name not in ("p_ci_builds", "p_ci_builds_metadata")
        for where in (table.read_by_snapshot(separate_ci=True), table.read_by_poll([7, 9])):
            assert not apart or "p_ci_builds" not in where


def test_a_poll_of_another_database_reads_names_of_its_live_builds_alone() -> None:
    table = TABLES["job_environments"]
    assert table.read_by_poll([7, 9]) == "ci_job_id = ANY ('{7,9}'::bigint[])"
    assert table.read_by_poll([]) == "ci_job_id = ANY ('{}'::bigint[])"
    metadata = TABLES["p_ci_builds_metadata"]
    assert metadata.read_by_poll([7, 9]) == metadata.read_by_poll()
