"""Which partitions a worker owns while they are given to it, taken away, and lost."""

import asyncio
from typing import Any

import pytest

from projector.worker.owner_group import OwnerGroup
from projector.worker.timing import Timing


class Owner:
    """Runs until it is lost or stopped."""

    def __init__(self, partition: int, running: list[int]) -> None:
        self.partition = partition
        self.lost = asyncio.Event()
        self._running = running

    async def run(self) -> None:
        self._running.append(self.partition)
        await self.lost.wait()
        self._running.remove(self.partition)

    def stop(self) -> None:
        self.lost.set()


class Setup:
    def __init__(self) -> None:
        self.made: list[Owner] = []
        self.running: list[int] = []
        new_owner: Any = self.new_owner
        self.owners = OwnerGroup(new_owner, Timing(claim_again_s=0.05, hand_over_s=0.2))

    def new_owner(self, partition: int) -> Owner:
        self.made.append(Owner(partition, self.running))
        return self.made[-1]


@pytest.fixture
async def setup() -> Setup:
    return Setup()


async def settled(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0.05)


async def test_a_lost_partition_is_claimed_again_while_it_is_assigned(setup: Setup) -> None:
    setup.owners.assign(frozenset({1}))
    await settled()
    setup.made[0].lost.set()
    await settled()
    assert (setup.running, len(setup.made)) == ([1], 2)


async def test_a_lost_partition_that_was_taken_away_meanwhile_is_left(setup: Setup) -> None:
    setup.owners.assign(frozenset({1}))
    await asyncio.sleep(0)
    setup.made[0].lost.set()
    await asyncio.sleep(0.01)
    setup.owners.assign(frozenset())
    await settled()
    assert (setup.running, len(setup.made)) == ([], 1)


async def test_a_partition_taken_away_is_kept_until_it_is_claimed(setup: Setup) -> None:
    setup.owners.assign(frozenset({1, 2}))
    await settled()
    setup.owners.assign(frozenset({2}))
    await settled()
    assert sorted(setup.running) == [1, 2]
    setup.made[0].lost.set()
    setup.made[1].lost.set()
    await settled()
    assert setup.running == [2]


async def test_handing_over_ends_with_the_last_claim_of_another(setup: Setup) -> None:
    setup.owners.assign(frozenset({1, 2}))
    await settled()
    handing_over = asyncio.create_task(setup.owners.hand_over(partitions=3))
    await asyncio.sleep(0.01)
    assert sorted(setup.running) == [1, 2]
    for owner in setup.made:
        owner.lost.set()
    await asyncio.wait_for(handing_over, 5)
    assert (setup.running, len(setup.made)) == ([], 2)


async def test_who_is_alone_hands_nothing_over(setup: Setup) -> None:
    setup.owners.assign(frozenset({1, 2}))
    await settled()
    await asyncio.wait_for(setup.owners.hand_over(partitions=2), 0.1)
    await setup.owners.stop()
    await settled()
    assert setup.running == []


async def test_an_owner_that_a_library_cancels_ends_the_worker(setup: Setup) -> None:
    """Or its partition would be without an owner, silently, until the worker ends."""

    async def run(_owner: Owner) -> None:
        raise asyncio.CancelledError

    setup.made.clear()
    new_owner = setup.new_owner

    def cancelled_owner(partition: int) -> Owner:
        owner = new_owner(partition)
        owner.run = lambda: run(owner)  # type: ignore[method-assign]
        return owner

    setup.owners = OwnerGroup(cancelled_owner)  # type: ignore[arg-type]
    setup.owners.assign(frozenset({1}))
    with pytest.raises(RuntimeError, match="a library cancelled this task"):
        await asyncio.wait_for(setup.owners.failed, 5)
