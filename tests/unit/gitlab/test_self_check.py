"""The self-check: what the dirty rules missed is sent, counted and logged."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from projector.gitlab.mapping.dirty import RULES, Rule
from projector.gitlab.mapping.due import EVERYTHING
from projector.gitlab.mapping.state import Mark, State
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.self_check import check_forever, check_kind
from tests.unit.gitlab.worlds import World


class Outbox:
    """The sender, as far as the memory knows it."""

    def __init__(self) -> None:
        self.last_number = 0

    def remembered(self, number: int) -> None:
        self.last_number = max(self.last_number, number)


def missed() -> float:
    names = ({"kind": kind} for kind in EVERYTHING)
    return sum(REGISTRY.get_sample_value("projector_gitlab_missed_total", n) or 0 for n in names)


def opened(path: Path, rules: tuple[Rule, ...]) -> OwnThread[State]:
    return OwnThread("state", lambda: State(path, by_counter=False, rules=rules))


async def filled(state: OwnThread[State], outbox: Outbox) -> Memory:
    """Return the memory with a world that goes on after its snapshot."""
    world = World(3)

    def work(found: State) -> None:
        found.start_snapshot({})
        found.apply(world.seeded())
        found.finish_snapshot()
        for number in range(30):
            found.apply(world.batch())
            found.finish(Mark("main", number, None))

    await state.run(work)
    return Memory(state, outbox)  # type: ignore[arg-type]


async def found_by_checks(path: Path, outbox: Outbox, rules: tuple[Rule, ...] = RULES) -> int:
    state = opened(path, rules)
    try:
        memory = await filled(state, outbox)
        return sum([await check_kind(memory, kind) for kind in EVERYTHING])
    finally:
        await state.run(State.close)
        state.stop()


async def test_the_self_check_finds_nothing_where_the_rules_are_whole(tmp_path: Path) -> None:
    before = missed()
    assert await found_by_checks(tmp_path / "state.db", Outbox()) == 0
    assert missed() == before


async def test_the_self_check_finds_what_no_rule_has_marked(tmp_path: Path) -> None:
    before, outbox = missed(), Outbox()
    found = await found_by_checks(tmp_path / "state.db", outbox, rules=())
    assert found > 0
    assert missed() == before + found
    assert outbox.last_number > 0


async def test_every_kind_has_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    async def note(_memory: Memory, kind: str) -> int:
        checked.append(kind)
        return 0

    monkeypatch.setattr("projector.gitlab.self_check.check_kind", note)
    task = asyncio.create_task(check_forever(None, 0.01))  # type: ignore[arg-type]
    await asyncio.sleep(0.3)
    task.cancel()
    assert set(checked) == set(EVERYTHING)
