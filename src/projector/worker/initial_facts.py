"""Facts that a new owner begins with: those of the checkpoint, or none where it is unusable."""

from collections.abc import Iterable
from contextlib import aclosing
from typing import Protocol

import structlog

from projector.domain.fact_keys import Key
from projector.domain.views import ViewId
from projector.errors import IncompleteCheckpointError
from projector.kafka.range_reader import Offsets, refuse_lost_history
from projector.store.partition_store import Checkpoint, PartitionStore
from projector.worker import dead_letter_outbox
from projector.worker.event_applier import EventApplier
from projector.worker.timing import in_turns

log = structlog.get_logger()


class InitialFacts(Protocol):
    """The source of a new owner's facts; every method may be called again after an outage."""

    async def load(
        self, applier: EventApplier, checkpoint: Checkpoint, beginnings: Offsets
    ) -> None:
        """Put facts, next offsets, known logs and waiting dead letters into memory.

        `beginnings` are the first offsets that Kafka has. Raises `HistoryLostError`.
        """

    def unknown_views(self, applier: EventApplier) -> Iterable[ViewId]:
        """Return the views in Redis that must end, since no fact in memory has them."""

    async def changed_fields(self, applier: EventApplier) -> dict[Key, bytes | None] | None:
        """Return the fields of the checkpoint to write; None if it must be replaced as a whole."""


class CheckpointFacts:
    """The facts of the partition's checkpoint."""

    def __init__(self, store: PartitionStore, turn_s: float) -> None:
        self._store = store
        self._turn_s = turn_s

    async def load(
        self, applier: EventApplier, checkpoint: Checkpoint, beginnings: Offsets
    ) -> None:
        """Load the checkpoint; drop it and begin at Kafka's beginning if it is unusable."""
        refuse_lost_history(checkpoint.offsets, beginnings)
        applier.progress.next = beginnings | checkpoint.offsets
        try:
            await self._restore(applier, checkpoint)
        except (IncompleteCheckpointError, ValueError, LookupError) as error:
            log.warning("checkpoint unusable, reading everything again",
                        partition=applier.partition, reason=repr(error))  # fmt: skip
            await self._store.forget_checkpoint()
            applier.reset()
            refuse_lost_history({}, beginnings)
            applier.progress.next = beginnings

    async def _restore(self, applier: EventApplier, checkpoint: Checkpoint) -> None:
        applier.reset()
        letters: dict[Key, bytes] = {}
        async with aclosing(self._store.load()) as parts:
            async for fields in parts:
                letters |= dead_letter_outbox.take_letters(fields)
                await in_turns(applier.projection.load(fields), self._turn_s)
        self._store.refuse_incomplete(checkpoint, len(applier.projection.facts) + len(letters))
        applier.logs.restore(checkpoint.logs)
        applier.outbox.restore(letters)

    def unknown_views(self, _applier: EventApplier) -> Iterable[ViewId]:
        """Return no view: the sweep finds orphans."""
        return ()

    async def changed_fields(self, applier: EventApplier) -> dict[Key, bytes | None]:
        """Return the fields that have changed since the checkpoint."""
        return await applier.take_fields()
