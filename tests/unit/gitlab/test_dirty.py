"""Rules mark all that a batch can have changed: nothing is left when everything is compared."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from projector.gitlab import dirty
from projector.gitlab.dirty import RULES, Rule
from projector.gitlab.due import EVERYTHING
from projector.gitlab.state import Mark, State
from projector.gitlab.tables import TABLES
from tests.unit.gitlab.worlds import World

MARK = Mark("main", 0, None)


@contextmanager
def _state(path: Path, rules: tuple[Rule, ...] = RULES) -> Iterator[State]:
    state = State(path, by_counter=True, rules=rules)
    state._db.execute("PRAGMA synchronous = OFF")  # the disk is no part of these tests
    try:
        yield state
    finally:
        state.close()


def _left(state: State, kinds: Iterable[str] = EVERYTHING) -> list[tuple[str, str, str]]:
    """Return what a comparison of everything would still send."""
    db = state._db
    db.execute("SAVEPOINT everything")
    (last,) = db.execute("SELECT coalesce(max(number), 0) FROM outbox").fetchone()
    dirty.mark_everything(db, kinds)
    state._comparisons.compare(sequence="9" * 40, time_ms=None)
    left = db.execute("SELECT type, root, data FROM outbox WHERE number > ?", [last]).fetchall()
    db.execute("ROLLBACK TO everything")
    db.execute("RELEASE everything")
    return left


def _begin(state: State, world: World) -> None:
    state.start_snapshot({})
    state.apply(world.seeded())
    state.finish_snapshot()
    state.set_organization_agents(True, MARK)


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_after_each_batch_nothing_is_left_to_send(
    tmp_path: Path, seed: int, *, hostile: bool
) -> None:
    world = World(seed, hostile=hostile)
    with _state(tmp_path / "state.db") as state:
        _begin(state, world)
        for _ in range(150):
            changes = world.batch()
            state.apply(changes)
            state.finish(MARK)
            assert _left(state) == [], changes


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_missing_rule_leaves_something_to_send(tmp_path: Path, rule: Rule) -> None:
    others = tuple(other for other in RULES if other is not rule)
    kinds = [rule.kind] if rule.kind in EVERYTHING else EVERYTHING
    with _state(tmp_path / "state.db", others) as state:
        assert any(_batches_with_something_left(state, World(1), _focus(rule), kinds))


def _focus(rule: Rule) -> list[str]:
    """Return the tables whose changes the rule is about."""
    if rule.source == dirty.PROJECTS:
        return ["projects", "namespaces"]
    return [rule.source] if rule.source in TABLES else ["namespaces"]


def _batches_with_something_left(
    state: State, world: World, focus: list[str], kinds: Iterable[str]
) -> Iterator[bool]:
    _begin(state, world)
    for _ in range(2000):
        state.apply(world.batch(focus))
        state.finish(MARK)
        yield bool(_left(state, kinds))
