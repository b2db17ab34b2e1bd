"""The owners of the partitions assigned to this worker: made, fed, and made again."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from projector.events.model import KafkaRecord, Topic
from projector.worker.delivery_queue import Delivery
from projector.worker.owner import Owner

log = structlog.get_logger()

# Whoever overtook a lost claim may be on its way out: a zombie, or the last rebalance's owner.
CLAIM_AGAIN_S: Final = 5.0
STOP_TIMEOUT_S: Final = 5.0
# The others hear of the rebalance at their next heartbeat, then load their new partitions.
HAND_OVER_S: Final = 4.0


class OwnerGroup:
    """One running owner per assigned partition.

    `failed` gets the exception of an owner that ends by one: its partition must not stop
    silently, so whoever waits on `failed` ends the process.
    """

    def __init__(self, new_owner: Callable[[int], Owner]) -> None:
        self._new_owner = new_owner
        self._assigned: frozenset[int] = frozenset()
        self._owners: dict[int, Owner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def assign(self, partitions: frozenset[int]) -> None:
        """Own these partitions; those taken away are kept up until another worker claims them."""
        self._assigned = partitions
        for partition in partitions - self._tasks.keys():
            task = asyncio.create_task(self._own(partition), name=f"partition-{partition}")
            task.add_done_callback(self._note_failure)
            self._tasks[partition] = task

    def enqueue(self, record: KafkaRecord, ack: Callable[[], object]) -> None:
        """Hand a delivery to its partition's owner; without one it is read from Kafka later."""
        if owner := self._owners.get(record.partition):
            owner.enqueue(Delivery(record, ack))
        else:
            ack()

    def known_offset(self, topic: Topic, partition: int) -> int:
        """The offset before which no delivery is of any use to the partition's owner."""
        owner = self._owners.get(partition)
        return owner.known_offset(topic) if owner else 0

    def check_orphan(self, partition: int, digest: str) -> None:
        """Ask the partition's owner about a live record in Redis, if it is owned here."""
        if owner := self._owners.get(partition):
            owner.check_orphan(digest)

    async def hand_over(self, partitions: int) -> None:
        """Go on until other workers have claimed everything, a few seconds at most.

        Whoever had all `partitions` is taken to be alone, with nobody to hand them to.
        """
        is_alone, self._assigned = len(self._assigned) == partitions, frozenset()
        if self._tasks and not is_alone:
            await asyncio.wait(self._tasks.values(), timeout=HAND_OVER_S)

    async def stop(self) -> None:
        """Let every owner finish its batch; end those that cannot within five seconds."""
        self._assigned = frozenset()
        for owner in self._owners.values():
            owner.stop()
        if tasks := list(self._tasks.values()):
            _, late = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()

    async def _own(self, partition: int) -> None:
        while partition in self._assigned:
            self._owners[partition] = self._new_owner(partition)
            await self._owners[partition].run()
            del self._owners[partition]
            log.info("released", partition=partition)
            if partition in self._assigned:
                await asyncio.sleep(CLAIM_AGAIN_S)
        del self._tasks[partition]

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.failed.done():
            return
        if error := task.exception():
            self.failed.set_exception(error)
