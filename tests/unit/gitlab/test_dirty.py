"""Rules mark all that a batch can have changed: nothing is left when everything is compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from projector.gitlab import comparison, dirty
from projector.gitlab.dirty import RULES, Rule
from projector.gitlab.due import EVERYTHING
from projector.gitlab.state import Mark, State
from tests.unit.gitlab.worlds import World

SEEDS = range(6)
BATCHES = 60


@contextmanager
def _state(path: Path, rules: tuple[Rule, ...] = RULES) -> Iterator[State]:
    state = State(path, by_counter=True, rules=rules)
    state._db.execute("PRAGMA synchronous = OFF")  # the disk is no part of these tests
    try:
        yield state
    finally:
        state.close()


def _left(state: State) -> list[tuple[str, str, str]]:
    """Return what a comparison of everything would still send."""
    db = state._db
    db.execute("SAVEPOINT everything")
    (last,) = db.execute("SELECT coalesce(max(number), 0) FROM outbox").fetchone()
    dirty.mark_everything(db, EVERYTHING)
    comparison.compare(db, sequence="9" * 40, time_ms=None)
    left = db.execute("SELECT type, root, data FROM outbox WHERE number > ?", [last]).fetchall()
    db.execute("ROLLBACK TO everything")
    db.execute("RELEASE everything")
    return left


def _first_batch_with_something_left(path: Path, seed: int, rules: tuple[Rule, ...]) -> str | None:
    world = World(seed)
    with _state(path, rules) as state:
        state.start_snapshot({})
        state.apply(world.seeded())
        state.finish_snapshot()
        state.set_organization_agents(True, Mark("main", 0, None))
        for number in range(BATCHES):
            changes = world.batch()
            state.apply(changes)
            state.finish(Mark("main", number, None))
            if left := _left(state):
                return f"batch {number} left {left} after {changes}"
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_after_each_batch_nothing_is_left_to_send(tmp_path: Path, seed: int) -> None:
    assert _first_batch_with_something_left(tmp_path / "state.db", seed, RULES) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_missing_rule_leaves_something_to_send(tmp_path: Path, rule: Rule) -> None:
    others = tuple(other for other in RULES if other is not rule)
    assert any(
        _first_batch_with_something_left(tmp_path / f"{seed}.db", seed, others)
        for seed in range(50)
    )
