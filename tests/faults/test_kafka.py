"""Kafka restarted, frozen, cut off from the workers, or without a leader for some partitions."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from projector.events.partitioning import partition_of
from projector.kafka.topic_configs import CONFIGS, ONE_PARTITION
from projector.ports import is_listening
from tests.faults import poison_records
from tests.faults.conftest import SEED, Broker, NewScenario
from tests.faults.interleavings import revoke_while_cut_off
from tests.faults.scenario import BOUND_S, HEALTHY, Scenario
from tests.integration.deployment import PARTITIONS
from tests.integration.ports import free_port
from tests.integration.servers import Server, apache_kafka, eventually, running

OUTAGE_S = 2.5 * BOUND_S
# Bad records sent while the topic dead-letters has no leader either.
BAD = 100


def test_restarted(new_scenario: NewScenario, broker: Broker) -> None:
    scenario = new_scenario("Kafka kill -9 and restart")
    scenario.start(HEALTHY, HEALTHY)
    scenario.begin_fault()
    broker.server.kill()
    assert not is_listening(broker.port)
    scenario.add_proof(f"exit {broker.server.process.returncode}, not listening")
    broker.server.start()
    eventually(lambda: is_listening(broker.port), "the broker listening again")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_frozen(new_scenario: NewScenario, broker: Broker) -> None:
    scenario = new_scenario("Kafka SIGSTOP beyond the bound")
    scenario.start(HEALTHY, HEALTHY)
    scenario.begin_fault()
    broker.server.signal(signal.SIGSTOP)
    before = scenario.traffic.count
    scenario.run_past_the_bound()
    scenario.until_stale()
    acknowledged = scenario.traffic.count - before
    broker.server.signal(signal.SIGCONT)
    scenario.add_proof(f"stopped for more than {BOUND_S:g} s, {acknowledged} events, 503")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_workers_cut_off(new_scenario: NewScenario, broker: Broker) -> None:
    """Kafka acknowledges revocations while no worker can read them."""
    scenario = new_scenario("Kafka cut off from the workers")
    scenario.deployment.env["PROJECTOR_KAFKA"] = broker.proxied
    scenario.start(HEALTHY, HEALTHY)
    revoke_while_cut_off(scenario, broker.proxy)
    scenario.until_stale()
    broker.proxy.thaw()
    scenario.until_fresh()
    scenario.finish().assert_clean()


class TwoBrokers(NamedTuple):
    """Two brokers; the second leads the partitions with an odd number."""

    address: str
    second: Server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TwoBrokers]:
    first_port, second_port, controller = (free_port() for _ in range(3))
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first = apache_kafka(
        folders[0], first_port, controller, "run",
        "broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500",
    )  # fmt: skip
    with running(first):
        eventually(lambda: is_listening(first_port), f"the first broker: {first.log()}")
        address = f"127.0.0.1:{first_port}"
        asyncio.run(make_first_the_coordinator(address))
        second = apache_kafka(
            folders[1], second_port, controller, "join",
            "broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500",
        )  # fmt: skip
        with running(second):
            eventually(lambda: asyncio.run(brokers(address)) == 2, "two brokers")
            yield TwoBrokers(address, second)


async def make_first_the_coordinator(address: str) -> None:
    """Make Kafka create the topic of group offsets while the first broker is alone."""
    async with AIOKafkaConsumer(bootstrap_servers=address, group_id="first") as consumer:
        consumer.subscribe(["none"])
        await consumer.getmany(timeout_ms=2000)


async def brokers(address: str) -> int:
    """Count the brokers of the cluster; 0 if none answers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    try:
        await admin.start()
        return len((await admin.describe_cluster())["brokers"])
    except KafkaError:
        return 0
    finally:
        await admin.close()


def test_one_leader_gone(new_scenario: NewScenario, cluster: TwoBrokers) -> None:
    scenario = new_scenario("Kafka partitions without a leader", kafka=cluster.address)
    create_topics_on_both(scenario)
    scenario.start(HEALTHY, HEALTHY)
    scenario.traffic.broadcasts = False
    scenario.until_fresh()
    scenario.begin_fault()
    cluster.second.kill()
    began = time.monotonic()
    victim = scenario.traffic.namespaces[0]
    assert victim.partition == 0
    scenario.produce(*poison_records.records(victim.root, victim.partition, BAD, SEED))
    scenario.run_for(OUTAGE_S)
    prove_other_partitions_fresh(scenario, began)
    cluster.second.start()
    scenario.traffic.broadcasts = True
    scenario.until_fresh()
    assert len(scenario.dead_letters(BAD)) == BAD
    scenario.finish().assert_clean()


def create_topics_on_both(scenario: Scenario) -> None:
    """Create odd partitions and dead-letters on the second broker, even ones on the first."""

    async def create(admin: AIOKafkaAdminClient) -> None:
        replicas = {p: [1 + p % 2] for p in range(PARTITIONS)}
        prefix = scenario.deployment.prefix
        topics = [
            NewTopic(prefix + name, -1, -1, {0: [2]} if name in ONE_PARTITION else replicas, config)
            for name, config in CONFIGS.items()
        ]
        await admin.create_topics(topics)

    scenario.deployment.administrate(create)


def prove_other_partitions_fresh(scenario: Scenario, began: float) -> None:
    """Prove that even partitions stayed fresh, and that odd ones got 503 after the bound."""
    stale = {p for health in scenario.observer.health if health.at > began for p in health.stale}
    assert stale == {1, 3}
    past = began + BOUND_S + 1
    scenario.until(lambda: answers(scenario, past)[0] > 100, "answers of the other partitions")
    others, without_leader = answers(scenario, past)
    assert without_leader == 0, f"{without_leader} answers of partitions without a leader"
    scenario.add_proof(f"stale {sorted(stale)}: 0 answers; other partitions: {others}")


def answers(scenario: Scenario, past: float) -> tuple[int, int]:
    """Count the lookups after `past` that were answered, of even and of odd partitions."""
    found = Counter(
        partition_of(lookup.token.root, PARTITIONS) % 2
        for lookup in scenario.observer.lookups
        if lookup.sent > past and lookup.status in (200, 401, 403)
    )
    return found[0], found[1]
