"""Long work gives way to other tasks."""

import asyncio
from collections.abc import Iterator

from projector.worker import timing


async def test_others_have_the_loop_between_the_steps_of_a_long_claim() -> None:
    order: list[str] = []

    def steps() -> Iterator[None]:
        for _ in range(3):
            order.append("step")
            yield

    async def other() -> None:
        while True:
            order.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await timing.in_turns(steps(), turn_s=-1.0)
    beside.cancel()
    assert order == ["step", "other"] * 3
