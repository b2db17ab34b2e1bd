"""Owners go on at common moments, also those that come late or are cancelled."""

import asyncio

from projector.worker.timing import Moments


async def test_all_that_wait_go_on_in_the_same_turn() -> None:
    """Else they could not share their questions."""
    moments = Moments(0.01)
    turns: list[int] = []
    turn = 0

    async def wait(late: int) -> None:
        for _ in range(late):
            await asyncio.sleep(0)
        await moments.wait()
        turns.append(turn)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await asyncio.gather(*map(wait, range(20)))
    counting.cancel()
    assert len(set(turns)) == 1


async def test_a_late_owner_joins_the_others_at_the_next_moment() -> None:
    moments = Moments(0.01)
    came: list[str] = []

    async def wait(name: str) -> None:
        await moments.wait()
        came.append(name)

    first, cancelled = (asyncio.create_task(wait(name)) for name in ("first", "cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    late = asyncio.create_task(wait("late"))
    await first
    assert came == ["first", "late"]
    await asyncio.gather(late, wait("next"))
    assert came == ["first", "late", "next"]
