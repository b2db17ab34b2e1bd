"""The source `stream` on replication connections that are not there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydantic import SecretStr

from projector.config.gitlab_settings import GitlabSettings
from projector.errors import StateError
from projector.gitlab import resume
from projector.gitlab.mapping.state import Position, State
from projector.gitlab.mapping.tables import Change
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.postgres.pgoutput import Commit
from projector.gitlab.postgres.pieces import Piece
from projector.gitlab.postgres.replication import Identity, Replication, SlotStatus
from projector.gitlab.resume import Reason
from projector.gitlab.source import databases, layout
from projector.gitlab.stream import source as stream_source
from projector.gitlab.stream.look import Looker, Sight
from projector.gitlab.stream.source import StreamSource, may_have_builds
from tests.unit.gitlab.test_self_check import Outbox

SETTINGS = GitlabSettings(database=SecretStr("host=nowhere"))
DATABASES = databases(SETTINGS, {"main": "host=nowhere"})
BUILD = Change("p_ci_builds", 1, (1,))
USER = Change("users", 1, (1,))


class QuietReplication:
    """A replication connection of a database where nothing happens."""

    identity = Identity(7, 1, 150000)
    delivered = 100
    found = SlotStatus(100, "reserved", None, True)

    async def slot(self, _name: str) -> SlotStatus:
        return self.found

    async def start(self, *_: object) -> None:
        pass

    async def pieces(self, _limit: int) -> AsyncIterator[Piece]:
        await asyncio.Event().wait()
        yield Piece([], None, 0, urgent=False)

    async def close(self) -> None:
        pass


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[OwnThread[State]]:
    state = OwnThread("state", lambda: State(tmp_path / "state.db", by_counter=False))
    beginning = {"main": Position(100, 100, "7", 1)}
    await state.run(lambda found: found.start_snapshot(beginning))
    await state.run(State.finish_snapshot)
    await state.run(lambda found: found.note("layout", layout(DATABASES, SETTINGS)))
    await state.run(lambda found: found.note("published", "all"))
    yield state
    await state.run(State.close)
    state.stop()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """Answer for GitLab's setting, the last of these."""
    answers: list[bool | None] = [True]
    monkeypatch.setattr(Looker, "require_followed", lambda _: None)
    monkeypatch.setattr(Looker, "published", lambda _: "all")
    monkeypatch.setattr(Looker, "organization_agents", lambda _: answers[-1])

    async def connect(*_: object) -> Any:
        return QuietReplication()

    monkeypatch.setattr(Replication, "connect", connect)
    return answers


def source_of(state: OwnThread[State]) -> StreamSource:
    outbox: Any = Outbox()
    outbox.unsent = 0
    return StreamSource(DATABASES, SETTINGS, Memory(state, outbox), outbox)


async def setting_of(state: OwnThread[State]) -> object:
    return await state.run(lambda found: found._get("organization_agents"))


async def until_unknown(state: OwnThread[State]) -> None:
    while await setting_of(state) is not None:  # noqa: ASYNC110  the state has no events
        await asyncio.sleep(0.01)


async def test_gitlabs_setting_is_followed_without_a_look(
    state: OwnThread[State], answers: list[bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_source, "READ_SETTINGS_S", 0.01)
    source = source_of(state)
    running = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(5):
            await source.ready.wait()
            assert await setting_of(state) == 1
            answers.append(None)
            await until_unknown(state)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_no_look_vouches_once_the_publication_has_changed(
    state: OwnThread[State], answers: list[bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answers
    reasons: list[Reason] = []

    async def take_snapshot(*arguments: Any) -> str:
        reasons.append(arguments[3])
        return "another"

    monkeypatch.setattr(stream_source, "take_snapshot", take_snapshot)
    monkeypatch.setattr(Looker, "look", lambda _: {"main": Sight(100, 7, 1)})
    source = source_of(state)
    running = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(5):
            await source.look()
            assert reasons == []
            monkeypatch.setattr(Looker, "published", lambda _: "another")
            await source.look()
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert reasons == [resume.REPUBLISHED]
    assert await state.run(lambda found: found.noted("published")) == "another"


@pytest.mark.parametrize("kept", ["another layout", layout(DATABASES, SETTINGS)])
@pytest.mark.parametrize("wal_status", ["lost", "reserved"])
async def test_an_old_state_is_refused_whatever_else_needs_a_snapshot(
    state: OwnThread[State],
    answers: list[bool | None],
    kept: str,
    wal_status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert answers
    monkeypatch.setattr(QuietReplication, "found", SlotStatus(500, wal_status, None, True))
    await state.run(lambda found: found.note("layout", kept))
    with pytest.raises(StateError, match="older than what was sent"):
        async with asyncio.timeout(5):
            await source_of(state).run()


async def test_a_stream_that_ends_as_cancelled_is_noticed() -> None:
    async def stray() -> NoReturn:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="please report it"):
        async with asyncio.timeout(5):
            await stream_source._first_failure([stray(), asyncio.Event().wait()])


@pytest.mark.parametrize(
    ("changes", "is_whole", "expected"),
    [
        ([USER, BUILD], True, True),
        ([USER, BUILD._replace(row=None)], True, False),
        # The pieces after it may have builds.
        ([USER], False, True),
    ],
)
def test_builds_wait_for_their_projects(
    changes: list[Change], is_whole: bool, expected: bool
) -> None:
    commit = Commit(1, 2) if is_whole else None
    assert may_have_builds(Piece(changes, commit, 2, urgent=False)) is expected
