"""Writes of one partition's owner: views in portions, then the checkpoint that makes them valid.

The last few views go to Redis in one call with the checkpoint (`store/checkpoint_writes`).
Acknowledgements come after both, in the owner's loop. This order makes a crash harmless at any
moment: an event that is not in the checkpoint is read again, and its views are written again.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Final

from projector.clients.retry import retry_outages
from projector.domain.fact_keys import Key
from projector.domain.views import View, ViewId, is_digest, tombstone
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets
from projector.store.checkpoint_writes import FIELDS_PER_CALL, fits_one_call
from projector.store.partition_store import VIEWS_PER_CALL, PartitionStore
from projector.worker.event_applier import EventApplier
from projector.worker.first_views import FirstViews
from projector.worker.instrumentation import OwnerInstruments

# Events that arrive during a long write are applied after each portion of it, of some 20 ms.
VIEWS_PER_PORTION: Final = 2000
# So many views of some KB are written in one call with the checkpoint.
VIEWS_AT_ONCE: Final = VIEWS_PER_CALL


class ViewWriter:
    """Writes one partition's views and checkpoint to Redis, and retries until it answers."""

    def __init__(
        self, applier: EventApplier, store: PartitionStore, instruments: OwnerInstruments
    ) -> None:
        self.partition = applier.partition
        self._applier = applier
        self._store = store
        self._instruments = instruments
        # As the last checkpoint has them.
        self._served: Offsets = {}

    async def flush(
        self, between_portions: Callable[[], Awaitable[None]], first_views: FirstViews
    ) -> None:
        """Write all dirty views, and only then the checkpoint that makes them valid.

        The last few go with the checkpoint. `first_views` may release views that were held back,
        which are written too; no other view waits for these.
        """
        written: Counter[int] = Counter()
        await self._write_dirty(between_portions, written, but_few=True)
        if first_views.is_waiting:
            await self._write_dirty(between_portions, written)
        await first_views.release()
        await self._write_dirty(between_portions, written, but_few=True)
        await self._write_last(written)
        # Again, if Redis did not take the removal behind the checkpoint.
        await self._store.overlay.remove(self._store.version)

    async def _write_dirty(
        self,
        between_portions: Callable[[], Awaitable[None]],
        written: Counter[int],
        *,
        but_few: bool = False,
    ) -> None:
        """Write dirty views in portions, all or all `but_few`; count them by status."""
        projection = self._applier.projection
        while projection.facts.dirty.count > (self._few if but_few else 0):
            batch = projection.take_dirty(VIEWS_PER_PORTION)
            await self._store.overlay.renew()
            # Computed while they are written: the facts do not change until Redis has them all.
            views = partial(projection.views, batch.ids, self._applier.now)
            written.update(await self._write(views, batch.pointers))
            await between_portions()

    @property
    def _few(self) -> int:
        """The number of views that may go with the checkpoint.

        None waits until many facts are encoded: the end of 100,000 memberships may revoke it.
        """
        is_small = self._applier.projection.changed_facts <= FIELDS_PER_CALL
        return VIEWS_AT_ONCE if is_small and self._store.commits_at_once else 0

    async def _write_last(self, written: Counter[int]) -> None:
        """Write the views that remain, and the checkpoint; in one call if nothing is in the way."""
        projection = self._applier.projection
        batch = projection.take_dirty(VIEWS_AT_ONCE)
        views = list(projection.views(batch.ids, self._applier.now))
        fields = await self._applier.take_fields()
        # Counted here: from now on letters leave the outbox, but not the fields.
        total = self._applier.field_count
        is_done = await self._write_at_once(views, batch.pointers, fields, total)
        if views and not is_done:
            await self._write(lambda: views, batch.pointers)
        written.update(view.status for view in views)
        self._instruments.record_written(written)
        self._instruments.record_too_large(*projection.take_too_large())
        # Time alone may change a view, and then no field changes.
        if not is_done and (fields or self._is_due):
            await self.checkpoint(fields, total)

    @property
    def _is_due(self) -> bool:
        """Whether the checkpoint in Redis lacks views, offsets, or first views that are served."""
        is_at = self._applier.progress.is_checkpointed
        return self._store.is_ahead or not is_at or self._served != self._applier.served_offsets

    async def _write_at_once(
        self,
        views: list[View],
        pointers: Container[ViewId],
        fields: dict[Key, bytes | None],
        total: int,
    ) -> bool:
        if not views or not fits_one_call(views, fields):
            return False
        revision = self._store.next_revision()
        is_done = await self._commit(views, pointers, revision, fields, total)
        if is_done:
            await self._note_checkpoint()
        return is_done

    async def write_all(self, more: Sequence[View] = ()) -> None:
        """Write every view of the partition, then `more`.

        The overlay may expire before the last view. No stamp comes until then.
        """
        applier = self._applier
        applier.projection.facts.dirty.clear()
        await self._store.overlay.renew()
        await self.write(lambda: chain(applier.projection.all_views(applier.now), more))

    async def write(self, views: Callable[[], Iterable[View]]) -> None:
        """Write the views; `views` is called once for each attempt."""
        self._instruments.record_written(await self._write(views))

    @retry_outages
    async def end_orphans(self, ids: Collection[ViewId]) -> list[View]:
        """Delete the orphans under ids of jobs; return the tombstones of those under digests."""
        await self._store.delete_orphans([id_ for id_ in ids if not is_digest(id_)])
        return [tombstone(id_, self._applier.now) for id_ in ids if is_digest(id_)]

    @retry_outages
    async def _write(
        self, views: Callable[[], Iterable[View]], pointers: Container[ViewId] | None = None
    ) -> Counter[int]:
        """Write the views, and count them by their status."""
        return await self._store.write_views(views(), pointers)

    @retry_outages
    async def _commit(
        self,
        views: list[View],
        pointers: Container[ViewId],
        revision: int,
        fields: dict[Key, bytes | None],
        total: int,
    ) -> bool:
        applier = self._applier
        return await self._store.commit(
            views, pointers, revision,
            applier.progress.next, fields, total, applier.logs.identities(),
            applier.served_offsets[Topic.JOB_LIFECYCLE],
        )  # fmt: skip

    async def checkpoint(self, fields: dict[Key, bytes | None], total: int) -> None:
        """Write next offsets and changed fields, which makes all views so far valid.

        `total` is `EventApplier.field_count` at the moment when the fields were taken.
        """
        await self._checkpoint(fields, total)
        await self._note_checkpoint()

    async def _note_checkpoint(self) -> None:
        """Note that the views so far are valid, so that none of them is held back any more."""
        self._applier.progress.note_checkpoint()
        self._served = self._applier.served_offsets
        await self._store.overlay.remove(self._store.version)

    @retry_outages
    async def _checkpoint(self, fields: dict[Key, bytes | None], total: int) -> None:
        applier = self._applier
        await self._store.checkpoint(
            applier.progress.next, fields, total, applier.logs.identities(),
            applier.served_offsets[Topic.JOB_LIFECYCLE],
        )  # fmt: skip
