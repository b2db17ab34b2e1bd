"""First and last offsets of the topics, for the lag of partitions."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NoReturn

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.clients import kafka
from projector.clients.retry import OUTAGES
from projector.config.settings import Settings
from projector.errors import OperatorError
from projector.events.model import DEAD_LETTERS, Topic
from projector.kafka import topics
from projector.operators.status import Ends

INTERVAL_S: Final = 1.0
PATIENCE_S: Final = 5.0
REQUEST_TIMEOUT_MS: Final = 2000
# A fetch after the last letter returns nothing and waits this long.
MAX_WAIT_MS: Final = 50


class EndOffsetPoller:
    """Reads the topics' ends from Kafka every second, in a task of its own.

    `ends` is the latest result; without one, `trouble` is a sentence with the reason.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answered = asyncio.Event()
        self.ends: Ends | None = None
        self.trouble: str | None = f"Kafka at {settings.kafka} has not answered yet"

    async def run(self) -> NoReturn:
        """Poll until cancelled, also while Kafka does not answer."""
        while True:
            try:
                await self._poll()
            except OperatorError as error:
                self._note(None, str(error))
            except OUTAGES as error:
                reason = str(error) or f"no answer within {PATIENCE_S:g} s"
                self._note(None, f"Kafka at {self._settings.kafka} cannot be reached: {reason}")
            await asyncio.sleep(INTERVAL_S)

    async def first(self) -> None:
        """Wait for the first result or trouble, at most `PATIENCE_S`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._answered.wait()
        except TimeoutError:
            self.trouble = f"Kafka at {self._settings.kafka} does not answer"

    async def _poll(self) -> NoReturn:
        async with open_end_offsets(self._settings) as reader:
            while True:
                async with asyncio.timeout(PATIENCE_S):
                    self._note(await reader.read(), None)
                await asyncio.sleep(INTERVAL_S)

    def _note(self, ends: Ends | None, trouble: str | None) -> None:
        self.ends, self.trouble = ends, trouble
        self._answered.set()


@asynccontextmanager
async def open_end_offsets(settings: Settings) -> AsyncIterator["EndOffsetReader"]:
    """Open a reader of the topics' ends; raises `KafkaError`, and as `check_topics` does."""
    partitions = await topics.check_topics(settings)
    async with kafka.open_consumer(
        settings, "status", request_timeout_ms=REQUEST_TIMEOUT_MS, fetch_max_wait_ms=MAX_WAIT_MS,
        # The events of an open transaction are part of the lag: they keep their partition stale.
        isolation_level=kafka.UNCOMMITTED,
    ) as consumer:  # fmt: skip
        yield EndOffsetReader(settings, consumer, partitions)


class EndOffsetReader:
    """Reads the first and the end offset of every partition; `partitions` are their numbers."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, partitions: Mapping[str, int]
    ) -> None:
        self._consumer = consumer
        self._tps = {
            TopicPartition(settings.topic(topic), number): (topic, number)
            for topic in Topic
            for number in range(partitions[topic])
        }
        name = settings.topic(DEAD_LETTERS)
        self._letters = [TopicPartition(name, n) for n in range(partitions[DEAD_LETTERS])]

    async def read(self) -> Ends:
        """Read the offsets now; raises `KafkaError`."""
        tps = [*self._tps, *self._letters]
        beginnings = await self._consumer.beginning_offsets(tps)
        ends = await self._consumer.end_offsets(tps)
        letters = await self._corrected({tp: ends[tp] for tp in self._letters})
        return Ends(
            self._by_partition(beginnings),
            self._by_partition(ends),
            sum(end - beginnings[tp] for tp, end in letters.items()),
        )

    async def _corrected(self, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Correct the embedded broker's end offsets, which may be too low, by those of a fetch."""
        self._consumer.assign(list(ends))
        for tp, end in ends.items():
            self._consumer.seek(tp, end)
        await self._consumer.getmany(timeout_ms=4 * MAX_WAIT_MS)
        return {p: max(end, self._consumer.highwater(p) or 0) for p, end in ends.items()}

    def _by_partition(self, offsets: Mapping[TopicPartition, int]) -> dict[int, dict[Topic, int]]:
        found: dict[int, dict[Topic, int]] = {}
        for tp, (topic, number) in self._tps.items():
            found.setdefault(number, {})[topic] = offsets[tp]
        return found
