"""A probe notes Redis TIME before Kafka's end offsets, and is reached once all below is applied."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from projector.clients import retry
from projector.events.model import Topic
from projector.kafka.broker_protocol import PartitionLeader
from projector.kafka.range_reader import Offsets
from projector.worker import freshness_probes
from projector.worker.delivery_queue import Delivery, DeliveryQueue
from projector.worker.freshness_probes import FreshnessProbes, Probe, truncated_topics
from tests import builders
from tests.unit.worker.owned_partition import PARTITION, QUICK, until

NOTHING = dict.fromkeys(Topic, 0)


class Servers:
    """Redis and Kafka, which note the order of the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.time = 1000
        self.end = 0
        self.redis_is_away = False
        self.kafka_hangs = False

    async def now(self) -> int:
        self.asked.append("T0")
        if self.redis_is_away:
            raise RedisConnectionError("no Redis")
        return self.time

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
    assert [line["event"] for line in told] == ["outage", "outage goes on", "outage over"]
    assert {line["server"] for line in told} == {server}
    assert [line["partitions"] for line in told[1:]] == [3, 3]
    assert told[0]["reason"] == ("no Redis" if server == "Redis" else "no answer in time")
