"""Owners of the partitions that Kafka assigned to this worker."""

import asyncio
from collections.abc import Callable

import structlog

from projector.domain.views import ViewId
from projector.events.model import KafkaRecord, Topic
from projector.process import refuse_stray_cancellation
from projector.worker.delivery_queue import Delivery
from projector.worker.owner import Owner
from projector.worker.timing import DEFAULT_TIMING, Timing

log = structlog.get_logger()


class OwnerGroup:
    """One running owner for each assigned partition.

    `failed` gets the exception that ends an owner. The worker waits on it and ends, so that no
    partition stops silently.
    """

    def __init__(self, new_owner: Callable[[int], Owner], timing: Timing = DEFAULT_TIMING) -> None:
        self._new_owner = new_owner
        self._timing = timing
        self._assigned: frozenset[int] = frozenset()
        self._owners: dict[int, Owner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def assign(self, partitions: frozenset[int]) -> None:
        """Own these partitions, and all others until another worker claims them."""
        self._assigned = partitions
        for partition in partitions - self._tasks.keys():
            task = asyncio.create_task(self._own(partition), name=f"partition-{partition}")
            task.add_done_callback(self._note_failure)
            self._tasks[partition] = task

    def enqueue(self, record: KafkaRecord, ack: Callable[[], object]) -> None:
        """Pass a delivery to its partition's owner; without an owner, acknowledge it."""
        if owner := self._owners.get(record.partition):
            owner.enqueue(Delivery(record, ack))
        else:
            ack()

    def known_offset(self, topic: Topic, partition: int) -> int:
        """Return the offset below which the partition's owner needs no delivery."""
        owner = self._owners.get(partition)
        return owner.known_offset(topic) if owner else 0

    def check_orphan(self, partition: int, id_: ViewId) -> None:
        """Ask the partition's owner, if it is in this worker, about a live record in Redis."""
        if owner := self._owners.get(partition):
            owner.check_orphan(id_)

    async def hand_over(self, partitions: int) -> None:
        """Serve on until other workers have claimed everything, for a few seconds at most.

        A worker that has all `partitions` is taken to be the only one, and does not wait.
        """
        is_alone, self._assigned = len(self._assigned) == partitions, frozenset()
        if self._tasks and not is_alone:
            await asyncio.wait(self._tasks.values(), timeout=self._timing.hand_over_s)

    async def stop(self) -> None:
        """Let every owner finish its batch; cancel those that need too long."""
        self._assigned = frozenset()
        for owner in self._owners.values():
            owner.stop()
        if tasks := list(self._tasks.values()):
            _, late = await asyncio.wait(tasks, timeout=self._timing.stop_timeout_s)
            for task in late:
                task.cancel()

    async def _own(self, partition: int) -> None:
        while partition in self._assigned:
            self._owners[partition] = self._new_owner(partition)
            await refuse_stray_cancellation(self._owners[partition].run())
            del self._owners[partition]
            log.info("released", partition=partition)
            if partition in self._assigned:
                await asyncio.sleep(self._timing.claim_again_s)
        del self._tasks[partition]

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.failed.done():
            return
        if error := task.exception():
            self.failed.set_exception(error)
