"""The state file: one transaction for each batch, one bridge at a time, errors in plain words."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from projector.errors import SnapshotNeededError, StateError
from projector.gitlab.mapping.due import KINDS
from projector.gitlab.mapping.mirror_tables import ENVIRONMENT_NAMES
from projector.gitlab.mapping.state import HeldJob, Mark, Position, Remembered, State
from projector.gitlab.mapping.state_file import StateInUseError
from projector.gitlab.mapping.tables import TABLES, UNCHANGED, Change
from tests.unit.gitlab.worlds import World

MARK = Mark("main", 500, 1_700_000_000_000)
POSITION = Position(400, 300, "7001", 1)

Opener = Callable[..., State]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gitlab.db"


@pytest.fixture
def open_state(path: Path) -> Iterator[Opener]:
    states: list[State] = []

    def opened(*, by_counter: bool = False) -> State:
        while states:
            states.pop().close()
        states.append(State(path, by_counter=by_counter))
        return states[-1]

    yield opened
    while states:
        states.pop().close()


@pytest.fixture
def state(open_state: Opener) -> State:
    """A state after a snapshot of one group."""
    opened = open_state()
    opened.start_snapshot({"main": POSITION})
    opened.load("namespaces", [(1, "Group", None, None, 0)])
    opened.load("routes", [(1, 1, "Namespace", "acme")])
    opened.finish_snapshot()
    return opened


def _user(row_id: int, state: str) -> Change:
    return Change("users", row_id, (row_id, f"u{row_id}", state))


def _contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    db = sqlite3.connect(path)
    tables = [*TABLES, "told", "outbox", "offsets", "meta"]
    found = {
        table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables
    }
    db.close()
    return found


def _events(state: State) -> list[tuple[str, str]]:
    return [(row.type, row.root) for row in state.unsent(0, 1000)]


# batches


def test_a_snapshot_gives_the_events_of_all_that_is_due(state: State) -> None:
    assert not state.is_empty
    assert _events(state) == [("group.set", "1")]
    assert state.position("main") == POSITION
    assert state.position("ci") is None


def test_a_new_state_is_empty(open_state: Opener) -> None:
    state = open_state()
    assert state.is_empty
    assert state.position("main") is None


def test_a_batch_is_remembered_with_its_position(state: State, open_state: Opener) -> None:
    state.apply([_user(1, "blocked")])
    state.apply([_user(2, "blocked")])
    remembered = state.finish(MARK)
    assert remembered.events == 2
    reopened = open_state()
    assert reopened.position("main") == POSITION._replace(lsn=500)
    rows = reopened.unsent(0, 10)
    assert rows[-1].number == remembered.last_number
    assert [(row.type, row.time) for row in rows[1:]] == [("user.set", MARK.time_ms)] * 2


def test_large_events_are_read_a_few_at_a_time(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.apply([_user(number, "blocked") for number in range(1, 6)])
    state.finish(MARK)
    rows = state.unsent(0, 10)
    monkeypatch.setattr("projector.gitlab.mapping.state.MAX_UNSENT_CHARS", len(rows[0].data) + 1)
    assert state.unsent(0, 10) == rows[:2]
    state.acknowledged(rows[0].number, {})
    state.settle()
    assert state.unsent(rows[0].number, 10)[0] == rows[1]
    monkeypatch.setattr("projector.gitlab.mapping.state.MAX_UNSENT_CHARS", 1)
    assert state.unsent(rows[0].number, 10) == rows[1:2]


def test_a_batch_without_changes_moves_the_position(state: State) -> None:
    assert state.finish(MARK).events == 0
    assert state.position("main") == POSITION._replace(lsn=500)


def test_a_batch_leaves_nothing_for_the_next(state: State) -> None:
    state.apply(World(1).seeded())
    state.finish(MARK)
    temporary = state._db.execute("SELECT name FROM sqlite_temp_master WHERE type = 'table'")
    for (table,) in temporary.fetchall():
        assert state._db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_an_abandoned_batch_leaves_no_trace(state: State, path: Path) -> None:
    before = _contents(path)
    state.apply(World(1).seeded())
    state.abandon()
    assert _contents(path) == before
    assert state.finish(MARK).events == 0


def test_a_batch_that_a_killed_bridge_began_leaves_no_trace(
    state: State, path: Path, open_state: Opener
) -> None:
    before = _contents(path)
    state.apply(World(1).seeded())
    open_state()
    assert _contents(path) == before


@pytest.mark.parametrize("seed", range(2))
def test_pieces_of_a_batch_give_what_the_whole_gives(tmp_path: Path, seed: int) -> None:
    world = World(seed)
    batches = [world.seeded(), *(world.batch() for _ in range(30))]
    changes = [c for batch in batches for c in batch if c.table not in ENVIRONMENT_NAMES]
    states = [State(tmp_path / name, by_counter=True) for name in ("whole", "pieces")]
    for state, size in zip(states, (len(changes), 7), strict=True):
        state.start_snapshot({})
        state.finish_snapshot()
        for start in range(0, len(changes), size):
            state.apply(changes[start : start + size])
        state.finish(MARK)
        state.close()
    whole, pieces = (_contents(tmp_path / name) for name in ("whole", "pieces"))
    for table in (*TABLES, "told"):
        assert whole[table] == pieces[table], table


def test_a_poll_gives_the_events_of_a_stream(tmp_path: Path) -> None:
    stream, poll = (State(tmp_path / name, by_counter=True) for name in ("stream", "poll"))
    for state in (stream, poll):
        state.start_snapshot({})
        state.finish_snapshot()
    world = World(5)
    for number in range(20):
        stream.apply(world.batch() if number else world.seeded())
        stream.finish(MARK)
        for table in TABLES:
            poll.replace(table, world.rows[table].values())
        poll.finish(MARK)
    # A stream forgets the environments of builds that ended; ids of builds never come back.
    streamed, polled = ({e for e in _told(s) if e[0] != "job"} for s in (stream, poll))
    assert streamed == polled
    stream.close()
    poll.close()


def _told(state: State) -> set[tuple[object, ...]]:
    return set(state._db.execute("SELECT * FROM told"))


def test_an_error_in_a_piece_abandons_the_batch(state: State, path: Path) -> None:
    before = _contents(path)
    state.apply([_user(1, "blocked")])
    unsent = (1, 1, 1, UNCHANGED)
    with pytest.raises(SnapshotNeededError):
        state.apply([Change("agent_group_authorizations", 1, unsent, inserted=False)])
    assert state.finish(MARK).events == 0
    assert _contents(path)["users"] == before["users"]


def test_a_second_snapshot_sends_only_what_differs(state: State) -> None:
    (first,) = state.unsent(0, 10)
    state.start_snapshot({"main": POSITION})
    state.load("namespaces", [(1, "Group", None, None, 0), (2, "Group", 1, None, 0)])
    state.load("routes", [(1, 1, "Namespace", "acme"), (2, 2, "Namespace", "acme/shop")])
    state.finish_snapshot()
    _, second = state.unsent(0, 10)
    assert (second.type, second.root) == ("group.set", "1")
    assert second.sequence > first.sequence
    state.start_snapshot({"main": POSITION})
    assert state.finish_snapshot().events == 2
    assert [row.type for row in state.unsent(second.number, 10)] == ["group.removed"] * 2


def _snapshot(state: State, changes: Sequence[Change]) -> Remembered:
    state.start_snapshot({"main": POSITION})
    for table in TABLES:
        state.load(table, [c.row for c in changes if c.table == table and c.row])
    return state.finish_snapshot()


def test_all_is_sent_again_and_what_has_gone_meanwhile_is_removed(tmp_path: Path) -> None:
    seeded = World(22).seeded()
    state = State(tmp_path / "asked.db", by_counter=False)
    last = _snapshot(state, seeded).last_number
    told = _told(state)
    state.send_all_again()
    assert state.is_empty
    assert _told(state) == told
    assert [row.number for row in state.unsent(0, last)] == list(range(1, last + 1))
    members = [change for change in seeded if change.table == "members"]
    gone = len([row for row in told if row[0] in {"member", "group_share", "project_share"}])
    _snapshot(state, [change for change in seeded if change not in members])
    again = Counter(row.type for row in state.unsent(last, 10_000))
    assert again["member.removed"] == gone > 0
    assert not any(str(data).endswith(" ") for *_, data in _told(state))
    assert not state.is_empty
    # Each fact that is left was sent: as many as a state would send that had sent nothing.
    sets = [kind.set for kind in KINDS.values()]
    left = [row for row in _told(state) if row[-1]]
    assert sum(again[event] for event in sets) == len(left)
    state.close()


def test_offsets_are_forgotten_where_all_is_sent_again(state: State) -> None:
    state.acknowledged(1, {"membership": {0: 7}})
    state.settle()
    state.send_all_again()
    assert state.offsets() == {}


def test_a_user_who_is_gone_is_sent_again(state: State) -> None:
    state.apply([_user(7, "blocked")])
    state.finish(MARK)
    last = state.last_number
    state.send_all_again()
    state.start_snapshot({"main": POSITION})
    state.finish_snapshot()
    assert "user.set" in [row.type for row in state.unsent(last, 10)]


def test_a_check_of_one_kind_finds_what_is_missing(state: State) -> None:
    state._db.execute("DELETE FROM told")
    assert state.recheck("project", MARK).events == 0
    assert state.recheck("group", MARK).events == 1
    assert state.recheck("group", MARK).events == 0
    assert state.position("main") == POSITION


def _build(status: str) -> Change:
    row = (9, status, "Ci::Build", 7, 2000, 1, 0, 3600, "2026-11-29 00:00:00", None)
    return Change("p_ci_builds", 9, row)


@pytest.fixture
def with_job(state: State) -> State:
    """The state once job 9 has started in root namespace 1."""
    state.apply([_user(1, "active"), _build("running"), Change("projects", 7, (7, 1, 0))])
    state.finish(MARK)
    assert _events(state)[-1] == ("job.started", "1")
    return state


@pytest.mark.parametrize("held", [HeldJob(9, "1", True), HeldJob(9, "2", False)])
def test_a_job_that_is_left_out_is_never_told_again(with_job: State, held: HeldJob) -> None:
    last = with_job.last_number
    with_job.leave_out_jobs([held])
    assert "job.started" not in {kind for kind, *_ in with_job.facts()}
    with_job.recheck("job", MARK)
    with_job.apply([_build("canceling")])
    with_job.finish(MARK)
    with_job.apply([_build("success")])
    with_job.finish(MARK)
    assert with_job.last_number == last
    found = with_job._db.execute("SELECT count(*) FROM told WHERE kind = 'job'").fetchone()
    assert found == (0,)


@pytest.mark.parametrize("held", [HeldJob(9, "1", False), HeldJob(8, "2", True)])
def test_a_job_that_workers_have_as_told_stays(with_job: State, held: HeldJob) -> None:
    with_job.leave_out_jobs([held])
    assert "job.started" in {kind for kind, *_ in with_job.facts()}


def test_organization_agents_are_compared_only_when_the_setting_changes(state: State) -> None:
    state.load("projects", [(1, 1, 0)])
    state.load("cluster_agents", [(1, 1, "agent")])
    state.load("agent_organization_authorizations", [(1, 1, "{}")])
    state.finish(MARK)
    assert state.recheck("instance_agent", MARK).events == 0, "the setting is not read yet"
    assert state.set_organization_agents(True, MARK).events == 1
    assert state.set_organization_agents(True, MARK).events == 0
    assert state.set_organization_agents(False, MARK).events == 1


def test_without_any_settings_agents_serve_the_instance(state: State) -> None:
    state.load("projects", [(1, 1, 0)])
    state.load("cluster_agents", [(1, 1, "agent")])
    state.load("agent_organization_authorizations", [(1, 1, "{}")])
    state.finish(MARK)
    assert state.set_organization_agents(None, MARK).events == 1
    assert state.set_organization_agents(None, MARK).events == 0


# sequences


def test_the_sequence_is_the_epoch_and_the_position(state: State) -> None:
    epoch = state._get("epoch")
    state.apply([_user(1, "blocked")])
    state.finish(MARK)
    first, second = (row.sequence for row in state.unsent(0, 10))
    assert first == f"{epoch}{POSITION.lsn:020d}"
    assert second == f"{epoch}{MARK.lsn:020d}"
    assert len(second) == 30


def test_two_comparisons_at_one_position_have_two_sequences(state: State) -> None:
    for user in (1, 2):
        state.apply([_user(user, "blocked")])
        state.finish(MARK)
    assert len({row.sequence for row in state.unsent(0, 10)}) == 3


def test_a_counter_ignores_positions(open_state: Opener) -> None:
    state = open_state(by_counter=True)
    state.start_snapshot({})
    state.finish_snapshot()
    for user, lsn in ((1, 900), (2, 100)):
        state.apply([_user(user, "blocked")])
        state.finish(Mark("main", lsn, None))
    first, second = (row.sequence for row in state.unsent(0, 10))
    assert first < second
    assert first.endswith(f"{0:020d}")


def test_a_counter_begins_above_the_one_of_a_restored_file(open_state: Opener) -> None:
    state = open_state(by_counter=True)
    state.start_snapshot({})
    state.finish_snapshot()
    epoch = state._get("epoch")
    reopened = open_state(by_counter=True)
    assert int(str(reopened._get("epoch"))) > int(str(epoch))


def test_a_snapshot_begins_an_epoch_above_the_last_even_if_clocks_go_back(state: State) -> None:
    future = 2_000_000_000
    state._put("epoch", future)
    state.start_snapshot({"main": POSITION})
    state.finish_snapshot()
    assert state._get("epoch") == future + 1


# the outbox


def test_acknowledged_events_leave_the_outbox_with_the_next_batch(
    state: State, open_state: Opener
) -> None:
    state.apply([_user(1, "blocked"), _user(2, "blocked")])
    state.finish(MARK)
    state.acknowledged(2, {"membership": {0: 7}})
    state.acknowledged(1, {"membership": {1: 3}, "job-lifecycle": {0: 1}})
    assert len(state.unsent(0, 10)) == 3
    state.finish(MARK)
    assert [row.number for row in state.unsent(0, 10)] == [3]
    reopened = open_state()
    assert reopened.offsets() == {"membership": {0: 7, 1: 3}, "job-lifecycle": {0: 1}}


def test_an_idle_bridge_settles_what_was_acknowledged(state: State) -> None:
    state.acknowledged(1, {"membership": {0: 7}})
    state.settle()
    assert state.unsent(0, 10) == []
    assert state.offsets() == {"membership": {0: 7}}


def test_settling_leaves_an_open_batch_open(state: State) -> None:
    state.apply([_user(1, "blocked")])
    state.acknowledged(1, {})
    state.settle()
    assert state.finish(MARK).events == 1


def test_numbers_of_the_outbox_never_come_back(state: State, open_state: Opener) -> None:
    state.acknowledged(1, {})
    state.settle()
    reopened = open_state()
    reopened.apply([_user(1, "blocked")])
    assert reopened.finish(MARK).last_number == 2


def test_unsent_events_are_read_in_portions(state: State) -> None:
    state.apply([_user(user, "blocked") for user in range(1, 6)])
    state.finish(MARK)
    assert [row.number for row in state.unsent(2, 3)] == [3, 4, 5]


def test_a_confirmed_position_is_stored_at_once(state: State, open_state: Opener) -> None:
    assert state.confirm("main", 450)
    assert open_state().position("main") == POSITION._replace(confirmed=450)


def test_nothing_is_confirmed_within_a_batch(state: State) -> None:
    state.apply([_user(1, "blocked")])
    assert not state.confirm("main", 450)
    state.abandon()
    assert state.position("main") == POSITION


# the file


def test_the_file_is_for_its_owner_only(state: State, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_each_commit_is_on_disk_before_it_returns(state: State) -> None:
    assert state._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert state._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_file_that_others_can_read_is_closed_to_them(open_state: Opener, path: Path) -> None:
    open_state()
    path.chmod(0o644)
    open_state()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_bridge_is_refused_until_the_first_ends(state: State, path: Path) -> None:
    with pytest.raises(StateInUseError, match="another bridge uses"):
        State(path, by_counter=False)
    state.close()
    State(path, by_counter=False).close()


def test_the_file_can_be_read_while_a_bridge_has_it(state: State, path: Path) -> None:
    state.apply([_user(1, "blocked")])
    assert _contents(path)["namespaces"] == [(1, "Group", None, None, 0, "1")]


def test_a_file_that_is_not_sqlite_is_refused(path: Path) -> None:
    path.write_text("GITLAB_STATE=" * 100)
    with pytest.raises(StateError, match=r"not an SQLite file.*PROJECTOR_GITLAB_STATE"):
        State(path, by_counter=False)
    assert path.read_text() == "GITLAB_STATE=" * 100


def test_the_file_of_another_program_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url)")
    db.close()
    with pytest.raises(StateError, match="another program"):
        State(path, by_counter=False)


def test_a_state_of_another_version_is_refused(state: State, path: Path) -> None:
    state._put("schema", 99)
    state.close()
    with pytest.raises(StateError, match=r"version 99.*--audit"):
        State(path, by_counter=False)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"nowhere/gitlab\.db.*folder"):
        State(tmp_path / "nowhere" / "gitlab.db", by_counter=False)


def test_a_folder_is_no_state_file(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be opened"):
        State(tmp_path, by_counter=False)


def test_a_full_disk_is_named_and_the_batch_is_abandoned(state: State, path: Path) -> None:
    (pages,) = state._db.execute("PRAGMA page_count").fetchone()
    state._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    before = _contents(path)
    with pytest.raises(StateError, match="disk is full"):
        state.apply([_user(user, "blocked" * 100) for user in range(1000)])
    assert _contents(path) == before
    state._db.execute("PRAGMA max_page_count = 100000")
    state.apply([_user(1, "blocked")])
    assert state.finish(MARK).events == 1


def test_a_file_that_may_not_be_written_is_named(state: State) -> None:
    state._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StateError, match="cannot be written"):
        state.apply([_user(1, "blocked")])


def test_a_damaged_file_is_named(state: State, path: Path) -> None:
    state.close()
    damaged = bytearray(path.read_bytes())
    damaged[100:] = b"\xff" * (len(damaged) - 100)
    path.write_bytes(damaged)
    with pytest.raises(StateError, match="damaged"):
        State(path, by_counter=False)
