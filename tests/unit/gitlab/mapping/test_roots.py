"""Roots follow `parent_id` below whatever moved."""

import sqlite3
from collections.abc import Mapping

import pytest

from projector.gitlab.mapping import mirror_tables, roots
from projector.gitlab.mapping.mirror import Mirror
from projector.gitlab.mapping.tables import Change
from tests.unit.gitlab.worlds import GROUPS, World


class Namespaces:
    """A mirror of namespaces alone."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        mirror_tables.create(self.db)
        roots.create(self.db)
        self.mirror = Mirror(self.db)

    def put(self, *parents: tuple[int, int | None]) -> None:
        self.mirror.apply(_group(row_id, parent) for row_id, parent in parents)

    def delete(self, row_id: int) -> None:
        self.mirror.apply([Change("namespaces", row_id, None)])

    def follow(self) -> dict[int, str | None]:
        """End the batch; return the roots."""
        roots.follow_moves(self.db)
        self.reparented = self._ids("reparented")
        self.rerooted = self._ids("rerooted")
        roots.forget(self.db)
        self.mirror.forget_changes()
        return self.roots()

    def roots(self) -> dict[int, str | None]:
        return dict(self.db.execute("SELECT id, root FROM namespaces"))

    def _ids(self, table: str) -> set[int]:
        return {row_id for (row_id,) in self.db.execute(f"SELECT id FROM {table}")}


def _group(row_id: int, parent: int | None, lock: int = 0) -> Change:
    return Change("namespaces", row_id, (row_id, "Group", parent, None, lock))


@pytest.fixture
def namespaces() -> Namespaces:
    return Namespaces()


def test_a_move_takes_along_all_that_is_below(namespaces: Namespaces) -> None:
    namespaces.put((1, None), (2, 1), (3, 2), (4, 3), (9, None))
    assert namespaces.follow() == {1: "1", 2: "1", 3: "1", 4: "1", 9: "9"}
    namespaces.put((2, 9))
    assert namespaces.follow() == {1: "1", 2: "9", 3: "9", 4: "9", 9: "9"}
    assert namespaces.reparented == namespaces.rerooted == {2, 3, 4}


def test_a_move_inside_a_root_changes_ancestors_only(namespaces: Namespaces) -> None:
    namespaces.put((1, None), (2, 1), (3, 1), (4, 3))
    namespaces.follow()
    namespaces.put((3, 2))
    namespaces.follow()
    assert namespaces.reparented == {3, 4}
    assert namespaces.rerooted == set()


def test_a_lock_moves_nothing(namespaces: Namespaces) -> None:
    namespaces.put((1, None), (2, 1))
    namespaces.follow()
    namespaces.mirror.apply([_group(2, 1, lock=1)])
    namespaces.follow()
    assert namespaces.reparented == namespaces.rerooted == set()


def test_orphans_have_no_root_until_the_parent_comes(namespaces: Namespaces) -> None:
    namespaces.put((2, 1), (3, 2))
    assert namespaces.follow() == {2: None, 3: None}
    namespaces.put((1, None))
    assert namespaces.follow() == {1: "1", 2: "1", 3: "1"}
    namespaces.delete(1)
    assert namespaces.follow() == {2: None, 3: None}
    assert namespaces.rerooted == {1, 2, 3}


def test_a_circle_has_no_root_until_it_ends(namespaces: Namespaces) -> None:
    namespaces.put((1, None), (2, 1), (3, 2), (4, 3))
    namespaces.follow()
    namespaces.put((2, 4))
    assert namespaces.follow() == {1: "1", 2: None, 3: None, 4: None}
    namespaces.put((3, 1))
    assert namespaces.follow() == {1: "1", 2: "1", 3: "1", 4: "1"}


def test_a_group_above_itself_has_no_root(namespaces: Namespaces) -> None:
    namespaces.put((1, 1))
    assert namespaces.follow() == {1: None}


def test_a_group_that_comes_back_in_the_same_batch_has_its_root(namespaces: Namespaces) -> None:
    namespaces.put((1, None), (2, 1))
    namespaces.follow()
    namespaces.delete(1)
    namespaces.put((1, None))
    assert namespaces.follow() == {1: "1", 2: "1"}


def test_a_group_that_goes_and_returns_by_way_of_another_has_its_root(
    namespaces: Namespaces,
) -> None:
    namespaces.put((1, None), (2, 1), (9, None))
    namespaces.follow()
    namespaces.put((2, 9))
    namespaces.put((2, 1))
    assert namespaces.follow() == {1: "1", 2: "1", 9: "9"}


@pytest.mark.parametrize("seed", range(3))
def test_random_moves_give_the_roots_of_a_walk_upwards(namespaces: Namespaces, seed: int) -> None:
    world = World(seed)
    namespaces.mirror.apply(c for c in world.seeded() if c.table == "namespaces")
    namespaces.follow()
    for _ in range(300):
        before = {**dict.fromkeys(GROUPS), **namespaces.roots()}
        for _ in range(world.random.choice((1, 1, 2, 3))):
            namespaces.mirror.apply(world.change("namespaces"))
        after = namespaces.follow()
        parents = {n: row[2] for n, row in world.rows["namespaces"].items() if row[1] != "Project"}
        assert after == {n: _walk(n, parents) for n in parents}
        changed = {n for n in GROUPS if before[n] != after.get(n)}
        assert changed <= namespaces.rerooted <= namespaces.reparented


def _walk(start: int, parents: Mapping[int, object]) -> str | None:
    at: object = start
    for _ in range(len(parents) + 1):
        if not isinstance(at, int) or at not in parents:
            return None
        parent = parents[at]
        if parent is None:
            return str(at)
        at = parent
    return None
