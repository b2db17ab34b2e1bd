"""The state in its thread, one batch at a time; the sender learns of each."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from projector.gitlab import metrics
from projector.gitlab.mapping.state import HeldJob, Mark, Remembered, State
from projector.gitlab.mapping.tables import Change
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.sender import Sender
from projector.gitlab.source import MAIN


class Memory:
    """The state as several tasks use it."""

    def __init__(self, state: OwnThread[State], sender: Sender) -> None:
        self.state = state
        self._sender = sender
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def batch(self) -> AsyncIterator["Batch"]:
        """Begin a batch; it is rolled back where the block fails."""
        async with self._alone():
            batch = Batch(self.state)
            yield batch
            self._sender.remembered(batch.last_number)

    async def change(self, work: Callable[[State], Remembered]) -> Remembered:
        """Do work that stores its events by itself, and begin to send them."""
        async with self._alone():
            remembered = await self.state.run(work)
            self._sender.remembered(remembered.last_number)
            return remembered

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Have the state alone; where the block fails, roll back what it has not stored.

        Work of a block that was cancelled goes on in the thread, and may store its events.
        """
        async with self._lock:
            try:
                yield
            except BaseException:
                await self.state.run(State.abandon)
                await self.last_number()
                raise

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator["Quiet"]:
        """Hold back all batches, once Kafka has everything of before."""
        async with self._lock:
            await self._sender.until_acknowledged(await self.last_number())
            yield Quiet(self.state, self._sender)

    async def last_number(self) -> int:
        """Return the number of the last event that the state has, and begin to send up to it."""
        number = await self.state.run(lambda state: state.last_number)
        self._sender.remembered(number)
        return number


class Batch:
    """Changes on their way into the state."""

    def __init__(self, state: OwnThread[State]) -> None:
        self._state = state
        self.last_number = 0

    async def apply(self, changes: Sequence[Change]) -> None:
        """Apply a piece of a transaction that goes on."""
        await self._state.run(lambda state: _apply(state, changes))

    async def finish(self, changes: Sequence[Change], mark: Mark) -> None:
        """Apply the last piece, and store all of the batch with its events."""

        def work(state: State) -> Remembered:
            _apply(state, changes)
            with metrics.BATCH.labels("finish").time():
                return state.finish(mark)

        self.last_number = (await self._state.run(work)).last_number


class Quiet:
    """The state while no batch comes, for an audit of what was told."""

    def __init__(self, state: OwnThread[State], sender: Sender) -> None:
        self._state = state
        self._sender = sender

    async def remember_users(self, ids: Collection[int]) -> None:
        """Tell of these users too; return once Kafka has acknowledged it."""

        def remember(state: State) -> Remembered:
            position = state.position(MAIN)
            return state.remember_users(ids, Mark(MAIN, position.lsn if position else 0, None))

        number = (await self._state.run(remember)).last_number
        self._sender.remembered(number)
        await self._sender.until_acknowledged(number)

    async def leave_out_jobs(self, held: Collection[HeldJob]) -> None:
        """Pin jobs that workers have ended, or have under another root namespace."""
        await self._state.run(lambda state: state.leave_out_jobs(held))

    async def facts(self) -> list[tuple[str, str, str]]:
        """Return type, root and data of all that was told."""
        return await self._state.run(State.facts)


def _apply(state: State, changes: Sequence[Change]) -> None:
    began = time.perf_counter()
    state.apply(changes)
    metrics.BATCH.labels("apply").observe(time.perf_counter() - began)
    for table, count in Counter(change.table for change in changes).items():
        metrics.CHANGES.labels(table).inc(count)
