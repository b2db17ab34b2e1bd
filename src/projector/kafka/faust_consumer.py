"""How Faust's consumer fetches: never so long from idle partitions that busy ones wait for it.

aiokafka has one fetch under way at a broker, and leaves out of it whatever has records that nobody
has taken yet. So while a worker is busy a fetch may ask for idle partitions alone. Faust lets
brokers hold it for 1.5 s, and for as long nothing comes of the busy ones, revocations included.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP

# An idle worker then asks each broker ten times a second, less than its freshness probes do.
FETCH_WAIT_MS: Final = 100


class ShortPollThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread, whose consumer lets brokers hold a fetch for a short time only."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for it; read first, so that an aiokafka without it fails at once.
        consumer._fetch_max_wait_ms = min(consumer._fetch_max_wait_ms, FETCH_WAIT_MS)
        return consumer


class ShortPollConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer, on such a thread."""

    def _new_consumer_thread(self) -> ShortPollThread:
        return ShortPollThread(self, loop=self.loop, beacon=self.beacon)


def skip_applied(known: Callable[[TP], int]) -> type[DefaultSchedulingStrategy]:
    """Faust's order of delivery, without the records before the offset that `known` says.

    Owners hold every delivery against the offset that they expect, so a wrong answer loses nothing.
    """

    class LeavingOut(DefaultSchedulingStrategy):  # type: ignore[misc]
        def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
            """Whatever is not known yet, in Faust's order."""
            unknown = {tp: _from(known(tp), found) for tp, found in records.items()}
            ordered: Iterator[tuple[TP, Any]] = super().iterate(unknown)
            return ordered

    return LeavingOut


def _from(offset: int, records: list[Any]) -> list[Any]:
    """The records from `offset` on; if there are none the last, for commits follow deliveries."""
    if not records or records[0].offset >= offset:
        return records
    return [record for record in records if record.offset >= offset] or records[-1:]
