"""How Faust's consumer fetches: never so long from idle partitions that busy ones wait for it.

aiokafka has one fetch under way at a broker, and leaves out of it whatever has records that nobody
has taken yet. So while a worker is busy a fetch may ask for idle partitions alone. Faust lets
brokers hold it for 1.5 s, and for as long nothing comes of the busy ones, revocations included.
"""

from typing import Any, Final

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

# An idle worker then asks each broker ten times a second, less than its freshness probes do.
FETCH_WAIT_MS: Final = 100


class PromptThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread, whose consumer lets brokers hold a fetch for a short time only."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for it; read first, so that an aiokafka without it fails at once.
        consumer._fetch_max_wait_ms = min(consumer._fetch_max_wait_ms, FETCH_WAIT_MS)
        return consumer


class PromptConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer, on such a thread."""

    def _new_consumer_thread(self) -> PromptThread:
        return PromptThread(self, loop=self.loop, beacon=self.beacon)
