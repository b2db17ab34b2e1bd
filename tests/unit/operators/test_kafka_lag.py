"""The poller of the topics' ends: it says since when Kafka is silent, and goes on by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import OffsetAndTimestamp

from projector.config.settings import Settings
from projector.errors import MissingTopicsError
from projector.events.model import DEAD_LETTERS, Topic
from projector.kafka.broker_protocol import BrokerAnswer, PartitionLeader
from projector.operators import kafka_lag
from projector.operators.kafka_lag import EndOffsetPoller, EndOffsetReader
from projector.operators.status import Ends
from projector.operators.status_model import KafkaFault
from projector.store.replay_marks import FirstLetter

ENDS = Ends({}, {}, 3)
ID = UUID(int=7)


class Source:
    """Takes the place of Kafka; `answer` is called for each question."""

    def __init__(self) -> None:
        self.opened = 0
        self.answer: Callable[[], Any] = self.ends

    async def read(self) -> Ends:
        found: Ends = await self.answer()
        return found

    async def ends(self) -> Ends:
        return ENDS

    async def fail(self) -> Ends:
        raise KafkaConnectionError("no broker")

    async def cancel(self) -> Ends:
        """As aiokafka does when it stops with a fetch under way."""
        raise asyncio.CancelledError

    async def hang(self) -> Ends:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # a library loses it
                if self.answer != self.hang:
                    raise


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    source = Source()

    @asynccontextmanager
    async def opened(_settings: Settings) -> AsyncIterator[Source]:
        source.opened += 1
        yield source

    monkeypatch.setattr(kafka_lag, "open_end_offsets", opened)
    monkeypatch.setattr(kafka_lag, "INTERVAL_S", 0.01)
    return source


@asynccontextmanager
async def polling() -> AsyncIterator[EndOffsetPoller]:
    poller = EndOffsetPoller(Settings(kafka="k:1"))
    running = asyncio.create_task(poller.run())
    try:
        yield poller
        assert not running.done(), "it polls for as long as it is wanted"
    finally:
        running.cancel()
        await asyncio.wait({running}, timeout=5)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("way", ["fail", "cancel"])
async def test_a_source_that_ends_is_said_to_have_ended_and_is_asked_again(
    source: Source, way: str
) -> None:
    """`status --watch` showed `lag 0` for ever: its task had ended as cancelled."""
    async with polling() as poller:
        await until(lambda: poller.ends == ENDS)
        assert poller.trouble is None
        source.answer = getattr(source, way)
        await until(lambda: poller.ends is None)
        trouble = poller.trouble
        assert trouble
        assert trouble.since
        assert trouble.reason.startswith("Kafka at k:1 cannot be reached: ")
        assert 0 <= time.time() - trouble.since / 1000 < 60
        source.answer = source.ends
        await until(lambda: poller.ends == ENDS)
        assert poller.trouble is None


async def test_a_source_that_does_not_answer_is_not_shown_as_if_it_had(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_lag, "SILENCE_S", 0.05)
    monkeypatch.setattr(kafka_lag, "GIVE_UP_S", 0.1)
    async with polling() as poller:
        await until(lambda: poller.ends == ENDS)
        source.answer = source.hang
        await until(lambda: poller.ends is None)
        assert poller.trouble
        assert poller.trouble.reason == "Kafka at k:1 does not answer"
        await until(lambda: source.opened > 2)
        assert poller.ends is None
        source.answer = source.ends
        await until(lambda: poller.ends == ENDS)


async def test_what_is_wrong_with_the_topics_is_said_as_it_is(source: Source) -> None:
    async def missing() -> Ends:
        raise MissingTopicsError("create them")

    source.answer = missing
    async with polling() as poller:
        await poller.first()
        assert poller.trouble
        assert poller.trouble.fault is KafkaFault.TOPICS_MISSING
        assert poller.trouble.reason == "create them"
        # It may last for hours already.
        assert poller.trouble.since is None


async def test_after_a_pause_nothing_from_before_it_is_shown(source: Source) -> None:
    async with polling() as poller:
        await until(lambda: poller.ends == ENDS)
    source.answer = source.hang
    again = asyncio.create_task(poller.run())
    await asyncio.sleep(0.02)
    assert poller.ends is None
    source.answer = source.ends
    again.cancel()
    await asyncio.wait({again}, timeout=5)


class LeaderlessKafka:
    """Takes the place of consumer and brokers: one topic of partition 1 has no leader."""

    LEADERLESS = TopicPartition("a.agent-config", 1)

    def __init__(self) -> None:
        self.asked: set[TopicPartition] = set()

    async def ask_any(self, _question: Any) -> BrokerAnswer:
        named = [TopicPartition(f"a.{topic}", n) for topic in Topic for n in range(2)]
        return BrokerAnswer(
            {},
            {
                tp: PartitionLeader(-1 if tp == self.LEADERLESS else 1, 5, frozenset([1]), ID)
                for tp in [*named, TopicPartition("a.dead-letters", 0)]
            },
        )

    def learn(self, addresses: object) -> None: ...

    async def beginning_offsets(self, tps: set[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked |= tps
        return dict.fromkeys(tps, 1)

    async def end_offsets(self, tps: set[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked |= tps
        return dict.fromkeys(tps, 4)

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[Any, Any]:
        return {tp: OffsetAndTimestamp(1, 5000) for tp in times}

    def assign(self, _tps: object) -> None: ...

    def seek(self, _tp: object, _offset: int) -> None: ...

    async def getmany(self, timeout_ms: int) -> None: ...

    def highwater(self, _tp: object) -> None: ...


async def test_a_topic_without_a_leader_hides_no_other_lag() -> None:
    """Kafka answers no question about it: the lag of all partitions was missing."""
    kafka: Any = LeaderlessKafka()
    counts: dict[str, int] = {str(topic): 2 for topic in Topic} | {DEAD_LETTERS: 1}
    reader = EndOffsetReader(Settings(kafka="k:1", topic_prefix="a."), kafka, kafka, counts)
    found = await reader.read()
    assert LeaderlessKafka.LEADERLESS not in kafka.asked
    assert found.ends == {0: dict.fromkeys(Topic, 4)}
    assert found.leaderless == {1: [Topic.AGENT_CONFIG]}
    assert found.dead_letters == 3
    assert found.first_letters == {0: FirstLetter(1, 5000)}
    assert found.topic_ids == dict.fromkeys(Topic, str(ID))
