"""The names of environments of ended builds are forgotten, and no others."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from projector.gitlab import prune
from projector.gitlab.mapping.state import State
from projector.gitlab.mapping.tables import Change
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from tests.unit.gitlab.test_self_check import Outbox

ENDED = set(range(1, 8))
RUNS = 9


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[OwnThread[State]]:
    """A state with names of ended builds, of one that waits, and of one that runs."""

    def fill(found: State) -> None:
        found.start_snapshot({})
        found.load("job_environments", [(build, build, "x") for build in (*ENDED, 8, RUNS)])
        found.load("p_ci_builds_metadata", [(build, build, "x") for build in (1, 8, RUNS, 10)])
        row = (RUNS, "running", "Ci::Build", 7, 2000, 1, 0, 3600, None, None)
        found.load("p_ci_builds", [row])
        found.finish_snapshot()

    thread = OwnThread("state", lambda: State(tmp_path / "state.db", by_counter=False))
    await thread.run(fill)
    yield thread
    await thread.run(State.close)
    thread.stop()


def names(state: State) -> list[list[int]]:
    tables = ("job_environments", "p_ci_builds_metadata")
    return [[n for (n,) in state._db.execute(f"SELECT id FROM {table}")] for table in tables]


async def test_names_of_ended_builds_go_and_others_stay(
    state: OwnThread[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def read_ended(_dsn: str, builds: list[int]) -> list[int]:
        asked.append(builds)
        return [build for build in builds if build in ENDED]

    monkeypatch.setattr(prune, "read_ended", read_ended)
    monkeypatch.setattr(prune, "_BUILDS", 3)
    outbox: Any = Outbox()
    assert await prune.prune(Memory(state, outbox), "dsn") == len(ENDED)
    assert asked == [[1, 2, 3], [4, 5, 6], [7, 8, 10]]
    assert await state.run(names) == [[8, RUNS], [8, RUNS, 10]]


async def test_a_build_that_has_started_meanwhile_keeps_its_name(state: OwnThread[State]) -> None:
    def forget(found: State) -> list[list[int]]:
        row = (8, "running", "Ci::Build", 7, 2000, 1, 0, 3600, None, None)
        found.apply([Change("p_ci_builds", 8, row)])
        assert found.live_builds() == [8, RUNS]
        found.abandon()
        assert found.live_builds() == [RUNS]
        found.forget_builds([8, RUNS])
        return names(found)

    assert await state.run(forget) == [[*ENDED, RUNS], [1, RUNS, 10]]


async def test_an_outage_of_postgres_is_no_end(
    state: OwnThread[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [psycopg.OperationalError("secret"), RuntimeError("ended")]

    def fail(_dsn: str, _builds: list[int]) -> list[int]:
        raise outcomes.pop(0)

    monkeypatch.setattr(prune, "read_ended", fail)
    outbox: Any = Outbox()
    with pytest.raises(RuntimeError, match="ended"):
        await prune.prune_forever(Memory(state, outbox), "dsn", 0.01)
