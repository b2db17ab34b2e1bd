"""How far the topics go in Kafka, for whoever shows how far behind the partitions are."""

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
# A fetch behind the last letter has nothing to bring and waits so long.
MAX_WAIT_MS: Final = 50


class EndOffsetPoller:
    """Asks Kafka every second, beside whoever reads Redis meanwhile.

    `ends` is the latest answer; without one `trouble` says in a sentence why.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answered = asyncio.Event()
        self.ends: Ends | None = None
        self.trouble: str | None = f"Kafka at {settings.kafka} has not answered yet"

    async def run(self) -> NoReturn:
        """Ask for ever, whether Kafka answers or not."""
        while True:
            try:
                await self._follow()
            except OperatorError as error:
                self._note(None, str(error))
            except OUTAGES as error:
                reason = str(error) or f"no answer within {PATIENCE_S:g} s"
                self._note(None, f"Kafka at {self._settings.kafka} cannot be reached: {reason}")
            await asyncio.sleep(INTERVAL_S)

    async def first(self) -> None:
        """Wait until there is an answer or trouble, some seconds at most."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._answered.wait()
        except TimeoutError:
            self.trouble = f"Kafka at {self._settings.kafka} does not answer"

    async def _follow(self) -> NoReturn:
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
    """The topics' ends; raises `KafkaError`, and what `topics.check` raises."""
    partitions = await topics.check_topics(settings)
    async with kafka.open_consumer(
        settings, "status", request_timeout_ms=REQUEST_TIMEOUT_MS, fetch_max_wait_ms=MAX_WAIT_MS
    ) as consumer:
        yield EndOffsetReader(settings, consumer, partitions)


class EndOffsetReader:
    """Asks for the first and the last offset of every partition; `partitions` says how many."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, partitions: Mapping[str, int]
    ) -> None:
        self._consumer = consumer
        self._places = {
            TopicPartition(settings.topic(topic), number): (topic, number)
            for topic in Topic
            for number in range(partitions[topic])
        }
        name = settings.topic(DEAD_LETTERS)
        self._letters = [TopicPartition(name, n) for n in range(partitions[DEAD_LETTERS])]

    async def read(self) -> Ends:
        """What there is now; raises `KafkaError`."""
        places = [*self._places, *self._letters]
        beginnings = await self._consumer.beginning_offsets(places)
        ends = await self._consumer.end_offsets(places)
        letters = await self._corrected({place: ends[place] for place in self._letters})
        return Ends(
            self._by_partition(beginnings),
            self._by_partition(ends),
            sum(end - beginnings[place] for place, end in letters.items()),
        )

    async def _corrected(self, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The embedded broker's end offset may be too low; what a fetch says of it is not."""
        self._consumer.assign(list(ends))
        for place, end in ends.items():
            self._consumer.seek(place, end)
        await self._consumer.getmany(timeout_ms=4 * MAX_WAIT_MS)
        return {p: max(end, self._consumer.highwater(p) or 0) for p, end in ends.items()}

    def _by_partition(self, offsets: Mapping[TopicPartition, int]) -> dict[int, dict[Topic, int]]:
        found: dict[int, dict[Topic, int]] = {}
        for place, (topic, number) in self._places.items():
            found.setdefault(number, {})[topic] = offsets[place]
        return found
