"""Rules mark all that a batch can have changed: nothing is left when everything is compared."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from projector.gitlab.mapping import dirty, mirror_tables, roots
from projector.gitlab.mapping.dirty import RULES, Rule
from projector.gitlab.mapping.due import EVERYTHING
from projector.gitlab.mapping.mirror import Mirror
from projector.gitlab.mapping.state import Mark, State
from projector.gitlab.mapping.tables import TABLES, Change, Row
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


# the rules that follow groups up and down


class Marks:
    """A mirror, and what changes of it mark."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        mirror_tables.create(self.db)
        roots.create(self.db)
        dirty.create(self.db)
        self._mirror = Mirror(self.db)

    def have(self, *rows: tuple[str, Row]) -> None:
        for table, row in rows:
            self._mirror.load(table, [row])
        roots.work_out_all(self.db)

    def of(self, kind: str, *rows: tuple[str, Row]) -> set[tuple[int, int]]:
        """Return the (a, b) of a kind that changes to these rows mark."""
        self._mirror.apply(Change(table, int(str(row[0])), row) for table, row in rows)
        dirty.mark(self.db, self._mirror.changed | roots.follow_moves(self.db))
        return set(self.db.execute("SELECT a, b FROM dirty WHERE kind = ?", [kind]))


@pytest.fixture
def marks() -> Marks:
    """Groups 1 > 2 > 3, and 9; projects 51 to 53 are shared with 1, 2, 3, and 59 with 9."""
    found = Marks()
    found.have(
        *(_group(row_id, parent) for row_id, parent in ((1, None), (2, 1), (3, 2), (9, None))),
        *(("projects", (50 + n, 9, 0)) for n in (1, 2, 3, 9)),
        *(("project_group_links", (500 + n, 50 + n, n, 30, None)) for n in (1, 2, 3, 9)),
    )
    return found


def _group(row_id: int, parent: int | None) -> tuple[str, Row]:
    return "namespaces", (row_id, "Group", parent, None, 0)


def _member(row_id: int, group: int, user: int, kind: str = "Namespace") -> tuple[str, Row]:
    return "members", (row_id, 30, group, kind, user, None, None, 0)


def test_a_member_reaches_projects_shared_with_groups_below(marks: Marks) -> None:
    assert marks.of("project_share", _member(1, 2, 7)) == {(502, 7), (503, 7)}


def test_a_member_reaches_projects_shared_with_groups_below_a_sharing_group(marks: Marks) -> None:
    marks.have(("group_group_links", (1, 2, 9, 30, None)))  # group 2 invites group 9
    assert marks.of("project_share", _member(1, 9, 7)) == {(502, 7), (503, 7), (509, 7)}


def test_a_member_of_a_project_reaches_no_share(marks: Marks) -> None:
    marks.have(("group_group_links", (1, 9, 2, 30, None)))
    assert marks.of("project_share", _member(1, 2, 7, "Project")) == set()
    assert marks.of("group_share", _member(1, 2, 8, "Project")) == set()


def test_a_share_between_groups_reaches_projects_shared_with_groups_below(marks: Marks) -> None:
    assert marks.of("project_share", ("group_group_links", (1, 2, 9, 30, None))) == {
        (502, 0),
        (503, 0),
    }


def test_a_moved_group_takes_along_the_projects_shared_below(marks: Marks) -> None:
    assert marks.of("project_share", _group(2, 9)) == {(502, 0), (503, 0)}


def test_groups_in_a_circle_end_every_rule(marks: Marks) -> None:
    marks.have(_group(1, 3))
    assert marks.of("project_share", _member(1, 2, 7)) == {(501, 7), (502, 7), (503, 7)}


def test_a_mark_of_all_users_takes_the_place_of_single_ones(marks: Marks) -> None:
    link = ("project_group_links", (502, 52, 2, 40, None))
    assert marks.of("project_share", _member(1, 2, 7), link) == {(502, 0), (503, 7)}
