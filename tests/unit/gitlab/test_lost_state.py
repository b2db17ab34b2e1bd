"""The refusal of states that lack what was sent, and the audit that replaces them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from projector.config.settings import Settings
from projector.errors import StateError
from projector.events.model import Topic
from projector.gitlab import lost_state
from projector.gitlab.last_sent import LastSent
from projector.gitlab.mapping.state import Mark, Position, State
from projector.gitlab.mapping.tables import Change
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.sender import Sender

SETTINGS = Settings()
BLOCKED = Change("users", 7, (7, "u7", "blocked"))


class FakeSender:
    """Kafka, whose topics have events from the start, or have none."""

    def __init__(self) -> None:
        self.offsets = {topic: [5] for topic in Topic}
        self.last_number = 0
        self.fails = False

    async def ask_ends(self) -> None:
        if self.fails:
            raise LookupError("the command is stopped here")

    async def until_acknowledged(self, _number: int) -> None:
        pass

    def remembered(self, number: int) -> None:
        self.last_number = number


class Bridge:
    """A state, and what the last heartbeat says."""

    def __init__(self, state: OwnThread[State], monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.sender = FakeSender()
        self.memory = Memory(state, cast(Sender, self.sender))
        self.sent: LastSent | None = None

        async def read_last_sent(_settings: Settings) -> LastSent | None:
            return self.sent

        monkeypatch.setattr(lost_state, "read_last_sent", read_last_sent)

    async def run(self, work: Callable[[State], Any]) -> Any:
        return await self.state.run(work)

    async def start(self, *, audits: bool = False) -> bool:
        return await lost_state.refuse(
            self.state, cast(Sender, self.sender), SETTINGS, audits=audits, has_sources=True
        )

    async def beat(self) -> None:
        name, number = await self.run(lambda s: (s.noted(lost_state.NAME), s.last_number))
        self.sent = LastSent(name, number)

    async def snapshot(self) -> None:
        def work(state: State) -> None:
            state.start_snapshot({"main": Position(400, 300, "7001", 1)})
            state.load("users", [(7, "u7", "blocked")])
            state.finish_snapshot()

        await self.run(work)

    async def told(self) -> list[Any]:
        return cast(list[Any], await self.run(State.facts))


@pytest.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridge]:
    """A bridge that has sent one event."""
    state = OwnThread("state", lambda: State(tmp_path / "gitlab.db", by_counter=False))
    found = Bridge(state, monkeypatch)
    found.sender.offsets = {topic: [0] for topic in Topic}
    assert await found.start()
    await found.snapshot()
    await found.beat()
    found.sender.offsets = {topic: [5] for topic in Topic}
    yield found
    await state.run(State.close)
    state.stop()


async def test_the_state_that_was_the_last_to_send_goes_on(bridge: Bridge) -> None:
    assert not await bridge.start()


@pytest.mark.parametrize("mark", [LastSent("other", 0), LastSent("", 10**6)])
async def test_a_state_that_lacks_what_was_sent_is_refused(bridge: Bridge, mark: LastSent) -> None:
    name = await bridge.run(lambda state: state.noted(lost_state.NAME))
    bridge.sent = LastSent(mark.state or name, mark.number)
    with pytest.raises(StateError, match="the state is older than what was sent"):
        await bridge.start()


async def test_an_audit_that_never_began_to_send_has_forgotten_nothing(bridge: Bridge) -> None:
    before = await bridge.told()
    bridge.sender.fails = True
    with pytest.raises(LookupError):
        await bridge.start(audits=True)
    assert await bridge.told() == before
    assert len(await bridge.run(lambda state: state.unsent(0, 10))) == len(before) == 1


async def test_a_bridge_that_is_killed_in_its_audit_is_refused_without_one(bridge: Bridge) -> None:
    assert await bridge.start(audits=True)
    await bridge.beat()
    await bridge.snapshot()
    with pytest.raises(StateError, match="has not ended its audit"):
        await bridge.start()
    assert await bridge.start(audits=True)


async def test_a_bridge_that_is_killed_right_after_its_audit_goes_on(bridge: Bridge) -> None:
    bridge.sent = LastSent("other", 10**6)
    assert await bridge.start(audits=True)
    await bridge.beat()  # the claim
    await bridge.snapshot()
    await lost_state.end_audit(bridge.memory)
    assert not await bridge.start()


async def test_an_audit_takes_the_place_of_the_bridge_before_its_first_event(
    bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lost_state.require_last(bridge.state, SETTINGS)
    state = OwnThread("state", lambda: State(tmp_path / "other.db", by_counter=False))
    other = Bridge(state, monkeypatch)
    assert await other.start(audits=True)
    await other.beat()
    with pytest.raises(StateError, match="a bridge with another state has sent since"):
        await lost_state.require_last(bridge.state, SETTINGS)
    await state.run(State.close)
    state.stop()


async def test_an_audit_ends_between_two_batches(bridge: Bridge) -> None:
    """A note within a batch would be an error."""
    ended: list[str] = []

    async def end() -> None:
        await lost_state.end_audit(bridge.memory)
        ended.append("audit")

    async with asyncio.TaskGroup() as tasks, bridge.memory.batch() as batch:
        await batch.apply([BLOCKED])
        tasks.create_task(end())
        await asyncio.sleep(0.05)
        await batch.finish([], Mark("main", 500, None))
        ended.append("batch")
    assert ended == ["batch", "audit"]
