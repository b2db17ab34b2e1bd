"""A probe notes Redis TIME before Kafka's end offsets, and is reached once all below is applied."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from projector.clients import retry
from projector.events.heartbeats import Heartbeat
from projector.events.model import Topic
from projector.kafka.broker_protocol import PartitionLeader
from projector.kafka.range_reader import Offsets
from projector.store.silent_source import SilentSource
from projector.worker import freshness_probes
from projector.worker.delivery_queue import Delivery, DeliveryQueue
from projector.worker.freshness_probes import (
    FreshnessProbes,
    Probe,
    truncated_topics,
)
from projector.worker.vouchers import SourceMark, Vouchers
from tests import builders
from tests.unit.worker.owned_partition import PARTITION, QUICK, until
from tests.unit.worker.source_log import LEADER

NOTHING = dict.fromkeys(Topic, 0)


class Servers:
    """Redis and Kafka, which note the order of the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.time = 1000
        self.end = 0
        self.source_end = 0
        self.redis_is_away = False
        self.kafka_hangs = False

    async def now(self) -> int:
        self.asked.append("T0")
        if self.redis_is_away:
            raise RedisConnectionError("no Redis")
        return self.time

    async def source_leader(self) -> PartitionLeader:
        self.asked.append("source")
        return LEADER

    async def ends_with_source(
        self, partition: int, leaders: Any, source: PartitionLeader
    ) -> tuple[Offsets, int]:
        assert source == LEADER
        return await self.ends(partition, leaders), self.source_end

    async def leaders(self, _partition: int) -> dict[Topic, PartitionLeader]:
        self.asked.append("leaders")
        return {}

    async def ends(self, _partition: int, _leaders: Any) -> Offsets:
        self.asked.append("ends")
        if self.kafka_hangs:
            await asyncio.Event().wait()
        return dict.fromkeys(Topic, self.end)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def queue() -> DeliveryQueue:
    return DeliveryQueue()


@pytest.fixture
def probes(servers: Servers, queue: DeliveryQueue) -> FreshnessProbes:
    both: Any = servers
    return FreshnessProbes(PARTITION, both, both, queue, QUICK)


async def test_redis_time_is_asked_before_the_end_offsets(
    servers: Servers, probes: FreshnessProbes
) -> None:
    """An event between the two answers must not be older than the stamp and yet not applied."""
    await probes._ask(NOTHING)
    assert servers.asked == ["T0", "leaders", "ends"]


async def test_a_probe_is_reached_by_time_and_all_offsets(
    servers: Servers, probes: FreshnessProbes
) -> None:
    servers.end = 3
    await probes._ask(NOTHING)
    applied = dict.fromkeys(Topic, 3)
    assert probes.take_reached(999, applied) is None
    for topic in Topic:
        assert probes.take_reached(1000, applied | {topic: 2}) is None
    reached = probes.take_reached(1000, applied)
    assert reached is not None
    assert reached.t0 == 1000
    assert probes.take_reached(1000, applied) is None


async def test_the_latest_of_the_reached_probes_counts(
    servers: Servers, probes: FreshnessProbes
) -> None:
    for servers.time, servers.end in ((1000, 1), (2000, 2), (3000, 9)):
        await probes._ask(NOTHING)
    reached = probes.take_reached(9999, dict.fromkeys(Topic, 5))
    assert reached is not None
    assert reached.t0 == 2000
    assert probes.latest is not None
    assert probes.latest.t0 == 3000


async def test_a_clock_that_goes_back_does_not_lower_the_latest_time(
    servers: Servers, probes: FreshnessProbes
) -> None:
    assert probes.latest_t0 == 0
    for servers.time in (2000, 1000):
        await probes._ask(NOTHING)
    assert probes.latest_t0 == 2000


async def test_a_delivery_raises_an_end_offset_that_is_too_low(
    queue: DeliveryQueue, probes: FreshnessProbes
) -> None:
    queue.put(Delivery(builders.record(b"{", 6, topic=Topic.MEMBERSHIP), lambda: None))
    await probes._ask(NOTHING)
    assert probes.latest is not None
    assert probes.latest.ends == NOTHING | {Topic.MEMBERSHIP: 7}


async def test_the_oldest_and_the_newest_probes_are_kept(
    servers: Servers, probes: FreshnessProbes
) -> None:
    """The oldest is reached first; the newest once all is applied, however long that took."""
    for servers.end in range(1, 1001):
        servers.time = servers.end
        await probes._ask(NOTHING)
    assert len(probes._waiting) <= freshness_probes.MAX_PROBES
    assert probes.latest is not None
    assert probes.latest.t0 == 1000
    for applied, t0 in ((1, 1), (1000, 1000)):
        reached = probes.take_reached(1000, dict.fromkeys(Topic, applied))
        assert reached is not None
        assert reached.t0 == t0
    assert not probes._waiting


async def test_a_topic_that_ends_below_what_is_applied_is_noted(
    servers: Servers, probes: FreshnessProbes
) -> None:
    servers.end = 5
    await probes._ask(NOTHING | {Topic.AGENT_CONFIG: 6})
    assert probes.latest is not None
    assert probes.latest.truncated == (Topic.AGENT_CONFIG,)
    assert truncated_topics({Topic.AGENT_CONFIG: 5}, dict.fromkeys(Topic, 5)) == ()


async def test_a_broker_that_does_not_answer_costs_one_probe(
    servers: Servers, queue: DeliveryQueue
) -> None:
    both: Any = servers
    timing = QUICK._replace(probe_timeout_s=0.01)
    probes = FreshnessProbes(PARTITION, both, both, queue, timing)
    answer, hangs = servers.ends, [True, False]

    async def ends(partition: int, leaders: Any) -> Offsets:
        if hangs and hangs.pop(0):
            await asyncio.Event().wait()
        return await answer(partition, leaders)

    servers.ends = ends  # type: ignore[method-assign,assignment]
    noted: list[Probe | None] = []
    running = asyncio.create_task(probes.run(lambda: NOTHING, lambda: noted.append(probes.latest)))
    await until(lambda: noted)
    running.cancel()
    assert servers.asked[:4] == ["T0", "leaders", "T0", "leaders"]


async def test_a_claim_does_not_wait_for_the_interval(
    servers: Servers, queue: DeliveryQueue
) -> None:
    """Also if it ends while a probe is under way, which began before it."""
    both: Any = servers
    timing = QUICK._replace(probe_interval_s=60.0)
    probes = FreshnessProbes(PARTITION, both, both, queue, timing)
    noted: list[Probe | None] = []
    running = asyncio.create_task(probes.run(lambda: NOTHING, lambda: noted.append(probes.latest)))
    await asyncio.sleep(0)
    probes.probe_at_once()
    await until(lambda: len(noted) == 2)
    await asyncio.sleep(0.01)
    probes.probe_at_once()
    await until(lambda: len(noted) == 3)
    running.cancel()


async def test_events_applied_while_the_broker_answers_do_not_make_a_topic_truncated(
    servers: Servers, probes: FreshnessProbes
) -> None:
    applied = dict(NOTHING)
    answer = servers.ends

    async def ends(partition: int, leaders: Any) -> Offsets:
        found = await answer(partition, leaders)
        applied[Topic.MEMBERSHIP] = 5
        return found

    servers.ends = ends  # type: ignore[method-assign,assignment]
    noted: list[Probe | None] = []
    probing = asyncio.create_task(probes.run(lambda: applied, lambda: noted.append(probes.latest)))
    await until(lambda: noted)
    probing.cancel()
    assert noted[0] is not None
    assert noted[0].truncated == ()


# sources


class Topics:
    """A reading of the topic `sources`, in place of `Sources`."""

    names = ("gitlab",)

    def __init__(self) -> None:
        self.reading: int | None = 1
        self.untrue: list[int] = []

    def mark(self, leader: PartitionLeader, end: int) -> SourceMark:
        assert leader == LEADER
        return SourceMark(self.reading, end)

    def count(self, _name: str) -> None: ...

    def report_untrue(self, _name: str, offset: int, _partition: int) -> None:
        self.untrue.append(offset)


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def waiting(servers: Servers, queue: DeliveryQueue, topics: Topics) -> FreshnessProbes:
    """Return probes that wait for the source `gitlab`."""
    both: Any = servers
    sources: Any = topics
    probes = FreshnessProbes(PARTITION, both, both, queue, QUICK, sources=sources)
    probes.vouchers.begin(1)
    return probes


def vouch(probes: FreshnessProbes, after: int, number: int = 0) -> None:
    offsets = {topic: [number] for topic in Topic}
    probes.vouchers.note(Heartbeat("gitlab", after + 1, after, offsets), 0.0)


async def test_the_end_of_the_heartbeats_is_asked_with_the_others_after_redis_time(
    servers: Servers, waiting: FreshnessProbes
) -> None:
    await waiting._ask(NOTHING)
    assert servers.asked[0] == "T0"
    assert sorted(servers.asked[1:3]) == ["leaders", "source"]
    assert servers.asked[3:] == ["ends"]


async def test_without_sources_nothing_is_asked_about_them(
    servers: Servers, probes: FreshnessProbes
) -> None:
    await probes._ask(NOTHING)
    assert "source" not in servers.asked
    assert probes.latest is not None
    assert probes.latest.source is None
    assert probes.take_silence(9999, NOTHING) is None


async def test_a_probe_is_reached_only_once_its_source_has_vouched(
    servers: Servers, waiting: FreshnessProbes
) -> None:
    for servers.time, servers.source_end in ((1000, 5), (2000, 6)):
        await waiting._ask(NOTHING)
    assert waiting.take_reached(9999, NOTHING) is None
    vouch(waiting, 4)
    assert waiting.take_reached(9999, NOTHING) is None
    vouch(waiting, 5, number=1)
    assert waiting.take_reached(9999, NOTHING) is None
    reached = waiting.take_reached(9999, dict.fromkeys(Topic, 1))
    assert reached is not None
    assert reached.t0 == 1000


async def test_probes_of_another_reading_are_dropped(
    servers: Servers, topics: Topics, waiting: FreshnessProbes
) -> None:
    """No heartbeat answers them, and those behind them would wait for ever."""
    for topics.reading in (1, None, 2):
        await waiting._ask(NOTHING)
    assert [probe.source for probe in waiting._waiting] == [SourceMark(2, 0)]
    waiting.vouchers.begin(2)
    vouch(waiting, 0)
    assert waiting.take_reached(9999, NOTHING) is not None


async def test_after_minutes_of_silence_the_newest_probe_is_reached(
    servers: Servers, waiting: FreshnessProbes
) -> None:
    for servers.time in range(5000):
        servers.source_end = servers.time
        await waiting._ask(NOTHING)
    vouch(waiting, 4999)
    reached = waiting.take_reached(9999, NOTHING)
    assert reached is not None
    assert reached.t0 == 4999


async def test_silence_is_named_once_a_probe_and_not_before_its_time(
    servers: Servers, waiting: FreshnessProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await waiting._ask(NOTHING)
    assert waiting.take_silence(9999, NOTHING) is None
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 0.0)
    assert waiting.take_silence(9999, NOTHING) is None
    servers.time, servers.source_end = 2000, 1
    await waiting._ask(NOTHING)
    # Timers or events that are missing are not the source's fault.
    assert waiting.take_silence(500, NOTHING) is None
    await waiting._ask(NOTHING)
    assert waiting.take_silence(9999, NOTHING) == SilentSource("gitlab", 0)
    assert waiting.take_silence(9999, NOTHING) is None
    vouch(waiting, 0)
    waiting.take_reached(9999, NOTHING)
    await waiting._ask(NOTHING)
    assert waiting.take_silence(9999, NOTHING) == SilentSource("gitlab", 1000)


async def test_each_source_is_silent_since_its_own_time(
    servers: Servers, topics: Topics, waiting: FreshnessProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness_probes, "SILENT_AFTER_S", 0.0)
    waiting.vouchers = Vouchers(0, ("gitlab", "hr"))
    waiting.vouchers.begin(1)
    for servers.time, servers.source_end in ((1000, 0), (2000, 1), (3000, 2)):
        await waiting._ask(NOTHING)
    vouch(waiting, 1)
    assert waiting.take_reached(9999, NOTHING) is None
    assert waiting._vouched_until("gitlab") == 2000
    assert waiting.take_silence(9999, NOTHING) == SilentSource("hr", 0)


async def test_offsets_beyond_the_ends_are_reported(
    servers: Servers, topics: Topics, queue: DeliveryQueue, waiting: FreshnessProbes
) -> None:
    vouch(waiting, 6, number=3)
    servers.end = 2
    await waiting._ask(NOTHING)
    assert topics.untrue == [7]
    # What was delivered is in Kafka, whatever the embedded broker answers.
    for topic in Topic:
        queue.put(Delivery(builders.record(b"{", 2, topic=topic), lambda: None))
    vouch(waiting, 8, number=3)
    await waiting._ask(NOTHING)
    assert topics.untrue == [7]


async def outage(servers: Servers, logged: list[Any], partitions: int) -> None:
    """Probe so many partitions with nothing to do, until an outage has begun, gone on and ended."""
    both: Any = servers
    probing = [
        asyncio.create_task(
            FreshnessProbes(number, both, both, DeliveryQueue(), QUICK).run(
                lambda: NOTHING, lambda: None
            )
        )
        for number in range(partitions)
    ]
    await until(lambda: [line["event"] for line in logged].count("outage goes on") == 1)
    servers.redis_is_away = servers.kafka_hangs = False
    await until(lambda: "outage over" in [line["event"] for line in logged])
    for task in probing:
        task.cancel()
    await asyncio.wait(probing)


@pytest.mark.parametrize("server", ["Redis", "Kafka"])
async def test_a_worker_with_nothing_to_do_says_which_server_is_away_and_for_how_many_partitions(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """It said nothing while Redis was away, and of Kafka that 0 partitions were stopped."""
    monkeypatch.setattr(retry, "LOG_AGAIN_S", 0.5)
    servers.redis_is_away, servers.kafka_hangs = server == "Redis", server == "Kafka"
    with capture_logs() as logged:
        await outage(servers, logged, 3)
    told = [line for line in logged if line["event"].startswith("outage")]
    first, *goes_on, last = (line["event"] for line in told)
    # On a busy machine it may go on for longer.
    assert (first, set(goes_on), last) == ("outage", {"outage goes on"}, "outage over")
    assert {line["server"] for line in told} == {server}
    assert {line["partitions"] for line in told[1:]} == {3}
    assert told[0]["reason"] == ("no Redis" if server == "Redis" else "no answer in time")
