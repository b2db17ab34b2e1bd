"""Faust's consumer of committed records, and a scheduler that skips applied records.

A delivery of Faust's waits only while a rebalance suspends the flow, or while a queue is full. Yet
Faust makes four tasks for each, 45 of the 105 us that the worker spent on an event. Here a
delivery that need not wait takes none.

aiokafka has one fetch at a time to a broker. The fetch omits partitions whose records the worker
has not taken yet. So while a worker is busy, a fetch may contain only idle partitions. Faust lets
brokers hold a fetch for 1.5 s. For that time busy partitions would get no events, revocations
included. So the fetch wait is short here.
"""

import inspect
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP
from mode.services import WaitResults

from projector.clients import kafka

# An idle worker then fetches from each broker ten times a second, less often than it probes.
FETCH_WAIT_MS: Final = 100


class ShortPollThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread, whose consumer waits at most `FETCH_WAIT_MS` and reads what is committed.

    `heartbeat_at` is the time (monotonic clock) of the last heartbeat that Kafka acknowledged.
    """

    heartbeat_at: float | None = None

    async def on_start(self) -> None:
        """Connect the consumer, and note its heartbeats from now on."""
        await super().on_start()
        coordinator = self._consumer._coordinator
        beat = coordinator._do_heartbeat

        async def noted() -> Any:
            acknowledged = await beat()
            if acknowledged:
                self.heartbeat_at = time.monotonic()
            return acknowledged

        coordinator._do_heartbeat = noted

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for either. Reading it first fails at once if aiokafka drops it.
        consumer._fetch_max_wait_ms = min(consumer._fetch_max_wait_ms, FETCH_WAIT_MS)
        # Faust reads what is committed only if it also writes transactions.
        if consumer._isolation_level != kafka.COMMITTED:
            consumer._isolation_level = kafka.COMMITTED
        return consumer

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust would take idle time for a stream or a commit that hangs.

        It measures from the last commit or event until now. So the first event after some quiet
        minutes is an error "has not committed", once for each partition. Owners notice real
        stalls within 2 s: they ask Kafka for its ends, and read by themselves.
        """


class ShortPollConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer, on a `ShortPollThread`."""

    def _new_consumer_thread(self) -> ShortPollThread:
        return ShortPollThread(self, loop=self.loop, beacon=self.beacon)


class StartedDelivery:
    """A coroutine after its first step, which waits for `awaited`."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            try:
                sent = yield self._awaited
            except BaseException as error:
                resume = partial(self._coroutine.throw, error)
            else:
                resume = partial(self._coroutine.send, sent)
            try:
                self._awaited = resume()
            except StopIteration as end:
                return end.value


class DirectConsumer(ShortPollConsumer):
    """A consumer that makes tasks for a delivery only if it waits.

    The taker of deliveries must keep up with up to 100 at once, after which Faust gives way. A
    queue that fills up pauses its partition, and with it the whole consumer for up to a second.
    """

    async def wait_first(self, *coros: Any, **options: Any) -> WaitResults:
        """Return as Faust's own does; it is called with each delivery and the end of the flow."""
        if len(coros) != 2 or options or not all(map(inspect.iscoroutine, coros)):
            return await super().wait_first(*coros, **options)
        delivery, end_of_flow = coros
        try:
            awaited = delivery.send(None)
        except BaseException as end:
            end_of_flow.close()
            if isinstance(end, StopIteration):
                return _results(delivery, end.value, self.should_stop)
            raise
        return await super().wait_first(StartedDelivery(delivery, awaited), end_of_flow)


def _results(delivery: Any, result: object, is_stopped: bool) -> WaitResults:
    return WaitResults([], [], True) if is_stopped else WaitResults([delivery], [result], False)


def followed_consumer(follow: Callable[[AIOKafkaConsumer], None]) -> type[DirectConsumer]:
    """Create Faust's consumer class; `follow` gets aiokafka's consumer, in its thread."""

    class FollowedThread(ShortPollThread):
        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            follow(consumer)
            return consumer

    class FollowedConsumer(DirectConsumer):
        def _new_consumer_thread(self) -> ShortPollThread:
            return FollowedThread(self, loop=self.loop, beacon=self.beacon)

    return FollowedConsumer


def skip_applied(next_offset: Callable[[TP], int]) -> type[DefaultSchedulingStrategy]:
    """Create a scheduler that drops fetched records before the `next_offset` of their partition.

    Owners compare every delivery with the offset that they expect, so a wrong offset loses nothing.
    """

    class SkipAppliedScheduler(DefaultSchedulingStrategy):  # type: ignore[misc]
        def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
            """Yield the records that are not applied yet, in Faust's order."""
            left = {tp: _skip(next_offset(tp), fetched) for tp, fetched in records.items()}
            ordered: Iterator[tuple[TP, Any]] = super().iterate(left)
            return ordered

    return SkipAppliedScheduler


def _skip(offset: int, records: list[Any]) -> list[Any]:
    """Return the records from `offset` on, at least the last one: commits follow deliveries."""
    if not records or records[0].offset >= offset:
        return records
    return [record for record in records if record.offset >= offset] or records[-1:]
