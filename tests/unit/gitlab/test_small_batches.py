"""The cost of a small batch: it must not grow with the rows of GitLab."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.gitlab.mapping.state import Mark, Position, State
from projector.gitlab.mapping.tables import TABLES
from tests.unit.gitlab.worlds import World

WHOLE_TABLE = re.compile(r"SCAN (\w+)")
ALIAS = re.compile(r"(?:FROM|JOIN|,)\s+(\w+)\s+(?:AS\s+)?(\w+)")
LARGE = {*TABLES, "told"}
PLANNED = ("DELETE", "INSERT", "SELECT", "UPDATE", "WITH")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "gitlab.db", by_counter=False)
    yield opened
    opened.close()


def statements_of(state: State, batches: int) -> set[str]:
    """Return every statement that SQLite runs for the batches of a random world."""
    world = World(1)
    state.start_snapshot({"main": Position(1, 1, "7001", 1)})
    for table in TABLES:
        state.load(table, [c.row for c in world.seeded() if c.table == table and c.row])
    state.finish_snapshot()
    found: set[str] = set()
    state._db.set_trace_callback(found.add)
    for lsn in range(2, 2 + batches):
        state.apply(world.batch())
        state.finish(Mark("main", lsn, 1_700_000_000_000))
    state._db.set_trace_callback(None)
    return {statement for statement in found if statement.startswith(PLANNED)}


def scanned(state: State, statement: str) -> set[str]:
    """Return the large tables that the statement reads from one end to the other."""
    names = {alias: table for table, alias in ALIAS.findall(statement)}
    steps = state._db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    read = [str(found[1]) for step in steps if (found := WHOLE_TABLE.match(step[-1]))]
    return {names.get(name, name) for name in read} & LARGE


def test_no_statement_of_a_batch_reads_a_whole_table(state: State) -> None:
    statements = statements_of(state, 300)
    assert len(statements) > 100
    found = {statement: scanned(state, statement) for statement in statements}
    assert not {statement[:300]: tables for statement, tables in found.items() if tables}
