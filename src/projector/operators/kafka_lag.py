"""First and last offsets of the topics, for the lag of partitions."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final, NoReturn

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.errors import AccessError, MissingTopicsError, OperatorError
from projector.events.model import DEAD_LETTERS, Topic
from projector.kafka import topics
from projector.kafka.broker_connections import BrokerConnections
from projector.kafka.broker_protocol import (
    NO_BROKER,
    Leaders,
    PartitionLeader,
    ask_leaders,
    id_of,
)
from projector.operators.dead_letters.reader import find_first
from projector.operators.status import Ends, KafkaAnswer
from projector.operators.status_model import KafkaFault, KafkaTrouble

INTERVAL_S: Final = 1.0
PATIENCE_S: Final = 5.0
# A result is at most this old: a call may take `PATIENCE_S`.
SILENCE_S: Final = 2 * INTERVAL_S + PATIENCE_S
# A connection that brings nothing for so long is given up, whatever it waits for.
GIVE_UP_S: Final = 20.0
REQUEST_TIMEOUT_MS: Final = 2000
# A fetch after the last letter returns nothing and waits this long.
MAX_WAIT_MS: Final = 50


class EndOffsetPoller:
    """Reads the topics' ends from Kafka every second, in a task of its own.

    `ends` is the latest result; without one, `trouble` is a sentence with the reason, and the time
    of the last result. A result that is older than `SILENCE_S` counts as none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answered = asyncio.Event()
        self._ends: Ends | None = None
        self._trouble: tuple[KafkaFault, str] | None = None
        self._since: float | None = None
        self._read_at, self._began_at = -math.inf, -math.inf

    @property
    def ends(self) -> Ends | None:
        """The topics' ends as of a moment ago."""
        is_recent = time.monotonic() - self._read_at <= SILENCE_S
        return self._ends if self._trouble is None and is_recent else None

    @property
    def trouble(self) -> KafkaTrouble | None:
        """The reason why there is no result, and the time of the last one.

        None for a moment after the beginning, while Kafka may still answer.
        """
        waits = time.monotonic() - self._began_at < PATIENCE_S
        if self.ends is not None or (waits and not self._answered.is_set()):
            return None
        silent = (KafkaFault.UNREACHABLE, f"Kafka at {self._settings.kafka} does not answer")
        since = None if self._since is None else round(self._since * 1000)
        lasted = time.monotonic() - max(self._read_at, self._began_at)
        return KafkaTrouble(*(self._trouble or silent), since, round(lasted, 1))

    @property
    def answer(self) -> KafkaAnswer:
        """The topics' ends as of a moment ago, or the trouble."""
        return KafkaAnswer(self.ends, self.trouble)

    async def run(self) -> NoReturn:
        """Poll until cancelled; connect again after a failure, and where no answer comes."""
        self._forget()
        while True:
            began = time.monotonic()
            polling = asyncio.create_task(self._poll())
            try:
                while time.monotonic() - max(began, self._read_at) < GIVE_UP_S:
                    await asyncio.wait({polling}, timeout=INTERVAL_S)
                    if polling.done():
                        self._note_failure(polling)
                        break
            finally:
                polling.cancel()
            await asyncio.sleep(INTERVAL_S)

    async def first(self) -> None:
        """Wait for the first result or trouble, at most `PATIENCE_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._answered.wait()
        # From now on silence is trouble.
        self._answered.set()

    async def _poll(self) -> NoReturn:
        async with open_end_offsets(self._settings) as reader:
            while True:
                async with asyncio.timeout(PATIENCE_S):
                    self._note_ends(await reader.read())
                await asyncio.sleep(INTERVAL_S)

    def _note_ends(self, ends: Ends) -> None:
        self._ends, self._trouble = ends, None
        self._since, self._read_at = time.time(), time.monotonic()
        self._answered.set()

    def _note_failure(self, polling: "asyncio.Task[NoReturn]") -> None:
        """Note why polling has ended; it never ends while all is well."""
        error = None if polling.cancelled() else polling.exception()
        self._trouble = _fault(error), _reason(self._settings, error)
        self._answered.set()

    def _forget(self) -> None:
        """Begin without a result: one from before a pause would pass for a present one."""
        self._ends = self._trouble = None
        self._answered.clear()
        self._since, self._read_at = None, -math.inf
        self._began_at = time.monotonic()


def _fault(error: BaseException | None) -> KafkaFault:
    match error:
        case MissingTopicsError():
            return KafkaFault.TOPICS_MISSING
        case AccessError():
            return KafkaFault.REFUSED
        case OperatorError():
            return KafkaFault.TOPICS_UNUSABLE
    return KafkaFault.UNREACHABLE


def _reason(settings: Settings, error: BaseException | None) -> str:
    """Write a sentence; that of a failed bootstrap would have Python's own notation."""
    match error:
        case MissingTopicsError():
            # Its advice to create them is wrong where the prefix is.
            return error.reason
        case OperatorError():
            return str(error)
        case KafkaConnectionError():
            reason = "no broker answers"
        case _:
            reason = str(error or "") or f"no answer within {PATIENCE_S:g} s"
    return f"Kafka at {settings.kafka} cannot be reached: {reason}"


@asynccontextmanager
async def open_end_offsets(settings: Settings) -> AsyncIterator["EndOffsetReader"]:
    """Open a reader of the topics' ends; raises `KafkaError`, and as `check_topics` does."""
    partitions = await topics.check_topics(settings)
    brokers = BrokerConnections(settings, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        async with kafka.open_consumer(
            settings, "status", request_timeout_ms=REQUEST_TIMEOUT_MS,
            fetch_max_wait_ms=MAX_WAIT_MS,
            # The events of an open transaction are part of the lag: they keep their partition
            # stale.
            isolation_level=kafka.UNCOMMITTED,
        ) as consumer:  # fmt: skip
            yield EndOffsetReader(settings, consumer, brokers, partitions)
    finally:
        await brokers.close()


class EndOffsetReader:
    """Reads the first and the end offset of every partition; `partitions` are their numbers."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, brokers: BrokerConnections,
        partitions: Mapping[str, int],
    ) -> None:  # fmt: skip
        self._consumer = consumer
        self._brokers = brokers
        self._tps = {
            TopicPartition(settings.topic(topic), number): (topic, number)
            for topic in Topic
            for number in range(partitions[topic])
        }
        name = settings.topic(DEAD_LETTERS)
        self._letters = [TopicPartition(name, n) for n in range(partitions[DEAD_LETTERS])]

    async def read(self) -> Ends:
        """Read the offsets now; raises `KafkaError`.

        Partitions without a leader are left out: an answer about them does not come.
        """
        leaders = await self._leaders()
        led = {tp for tp in (*self._tps, *self._letters) if _is_led(leaders.get(tp))}
        beginnings = await self._consumer.beginning_offsets(led)
        ends = await self._consumer.end_offsets(led)
        letters = await self._corrected({tp: ends[tp] for tp in self._letters if tp in led})
        return Ends(
            self._by_partition(beginnings),
            self._by_partition(ends),
            sum(end - beginnings[tp] for tp, end in letters.items())
            if led.issuperset(self._letters)
            else None,
            self._leaderless(led),
            self._topic_ids(leaders),
            await find_first(self._consumer, letters),
        )

    async def _leaders(self) -> Leaders:
        names = {tp.topic for tp in (*self._tps, *self._letters)}
        answer = await self._brokers.ask_any(lambda each: ask_leaders(each, names))
        self._brokers.learn(answer.addresses)
        return answer.leaders

    async def _corrected(self, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Correct the embedded broker's end offsets, which may be too low, by those of a fetch."""
        self._consumer.assign(list(ends))
        for tp, end in ends.items():
            self._consumer.seek(tp, end)
        await self._consumer.getmany(timeout_ms=4 * MAX_WAIT_MS)
        return {p: max(end, self._consumer.highwater(p) or 0) for p, end in ends.items()}

    def _by_partition(self, offsets: Mapping[TopicPartition, int]) -> dict[int, dict[Topic, int]]:
        """Sort the offsets; a partition has those of all its topics, or none."""
        found: dict[int, dict[Topic, int]] = {}
        for tp, (topic, number) in self._tps.items():
            if tp in offsets:
                found.setdefault(number, {})[topic] = offsets[tp]
        return {number: known for number, known in found.items() if len(known) == len(Topic)}

    def _leaderless(self, led: Collection[TopicPartition]) -> dict[int, list[Topic]]:
        found: dict[int, list[Topic]] = {}
        for tp, (topic, number) in self._tps.items():
            if tp not in led:
                found.setdefault(number, []).append(topic)
        return found

    def _topic_ids(self, leaders: Leaders) -> dict[Topic, str]:
        ids = {self._tps[tp][0]: id_of(at) for tp, at in leaders.items() if tp in self._tps}
        return {topic: id_ for topic, id_ in ids.items() if id_}


def _is_led(leader: PartitionLeader | None) -> bool:
    return leader is not None and leader.leader != NO_BROKER
