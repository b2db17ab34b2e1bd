"""The memory: the sender learns of all that is stored, also where the caller was cancelled."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from projector.gitlab.mapping.state import Mark, Remembered, State
from projector.gitlab.mapping.tables import TABLES, Change
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from tests.unit.gitlab.test_self_check import Outbox

MARK = Mark("main", 500, None)
VALUES: dict[str, int | str] = {"id": 7, "username": "x", "state": "blocked"}
BLOCKED = Change("users", 7, tuple(VALUES.get(name) for name in TABLES["users"].columns))


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[OwnThread[State]]:
    state = OwnThread("state", lambda: State(tmp_path / "state.db", by_counter=True))
    await state.run(lambda found: found.start_snapshot({}))
    await state.run(State.finish_snapshot)
    yield state
    await state.run(State.close)
    state.stop()


async def finish(memory: Memory) -> None:
    async with memory.batch() as batch:
        await batch.finish([BLOCKED], MARK)


async def change(memory: Memory) -> None:
    def work(found: State) -> Remembered:
        found.apply([BLOCKED])
        return found.finish(MARK)

    await memory.change(work)


@pytest.mark.parametrize("work", [finish, change])
async def test_the_sender_learns_of_what_a_cancelled_batch_has_stored(
    work: Callable[[Memory], Awaitable[None]],
    state: OwnThread[State],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on, finish = threading.Event(), threading.Event(), State.finish

    def slow(found: State, mark: Mark) -> Remembered:
        begun.set()
        go_on.wait(10)
        return finish(found, mark)

    monkeypatch.setattr(State, "finish", slow)
    outbox = Outbox()
    task = asyncio.ensure_future(work(Memory(state, outbox)))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert outbox.last_number == await state.run(lambda found: found.last_number) > 0


async def test_the_last_number_is_that_of_the_state(state: OwnThread[State]) -> None:
    outbox = Outbox()
    await state.run(lambda found: found.apply([BLOCKED]))
    remembered = await state.run(lambda found: found.finish(MARK))
    assert await Memory(state, outbox).last_number() == remembered.last_number  # type: ignore[arg-type]
    assert outbox.last_number == remembered.last_number > 0


async def test_a_batch_that_fails_is_rolled_back(state: OwnThread[State]) -> None:
    memory = Memory(state, Outbox())  # type: ignore[arg-type]

    async def fail() -> None:
        async with memory.batch() as batch:
            await batch.apply([BLOCKED])
            raise RuntimeError("an outage")

    with pytest.raises(RuntimeError, match="an outage"):
        await fail()
    await finish(memory)
    assert len(await state.run(lambda found: found.unsent(0, 10))) == 1
