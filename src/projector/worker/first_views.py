"""First views of one partition's jobs, held back until they are complete.

The three topics need not be in step. So a `job.started` may be applied before events of the other
topics that Kafka acknowledged earlier, and a view without these is short. GitLab's KAS would keep
such an answer for a minute. So the end offsets of the other topics are asked once for each batch
with jobs that start, after it was taken. Their first views wait until all below is applied.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from projector.clients.retry import retry_outages
from projector.domain.views import ViewId
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets, RangeReader
from projector.worker.delivery_queue import DeliveryQueue
from projector.worker.event_applier import EventApplier

OTHER_TOPICS: Final = (Topic.MEMBERSHIP, Topic.AGENT_CONFIG)
# Witnesses and leaders answer within some 15 ms. A longer wait would delay the events behind the
# batch; the views of jobs then wait without it.
ANSWER_S: Final = 0.02


@dataclass
class HeldViews:
    """First views of jobs that started in one batch, and the end offsets to apply before these.

    `ends` is None until Kafka has answered.
    """

    ids: list[ViewId]
    ends: Offsets | None = None

    def is_complete(self, applied: Offsets) -> bool:
        """Whether all is applied that the other topics held when the batch was taken."""
        return self.ends is not None and all(applied[t] >= self.ends[t] for t in OTHER_TOPICS)


class FirstViews:
    """One partition's first views that are held back, in the order of their batches."""

    def __init__(self, applier: EventApplier, reader: RangeReader, queue: DeliveryQueue) -> None:
        self.partition = applier.partition
        self._applier = applier
        self._reader = reader
        self._queue = queue
        self._held: deque[HeldViews] = deque()
        # The next offset of job-lifecycle below which every new token is held back or written.
        self._until = 0
        self._unasked = asyncio.Event()
        # Also set once the owner has given up waiting for the answer.
        self._answered = asyncio.Event()

    def begin(self) -> None:
        """Begin after a claim, which has written every view from complete facts."""
        self._held.clear()
        self._until = self._applier.progress.next[Topic.JOB_LIFECYCLE]

    def hold(self) -> None:
        """Hold back the first views of jobs that started since the last call."""
        since, self._until = self._until, self._applier.progress.next[Topic.JOB_LIFECYCLE]
        if ids := self._applier.projection.facts.dirty.hold_new(since):
            self._held.append(HeldViews(ids))
            self._answered.clear()
            self._unasked.set()

    @property
    def is_waiting(self) -> bool:
        """Whether `release` would wait for Kafka."""
        return bool(self._held) and not self._answered.is_set()

    async def release(self) -> None:
        """Release the views that are complete; wait for Kafka's answer, at most `ANSWER_S`."""
        if self.is_waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self._answered.wait()
            self._answered.set()
        while self._held and self._held[0].is_complete(self._applier.progress.next):
            self._applier.projection.facts.dirty.release(self._held.popleft().ids)

    async def run(self, answered: Callable[[], None]) -> NoReturn:
        """Ask for end offsets whenever views are held back, until cancelled.

        Calls `answered` after each answer.
        """
        while True:
            await self._unasked.wait()
            self._unasked.clear()
            asked = [held for held in self._held if held.ends is None]
            ends = await self._ends()
            for held in asked:
                held.ends = ends
            if not self._unasked.is_set():
                self._answered.set()
            answered()

    @retry_outages
    async def _ends(self) -> Offsets:
        ends = await self._reader.ends(self.partition)
        # The end offsets of the embedded broker may be below what it has delivered.
        return {topic: max(end, self._queue.arrived[topic]) for topic, end in ends.items()}
