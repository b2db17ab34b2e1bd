"""Views that are older than the stamps beside them: old dumps, lagging replicas, slow answers.

Each story runs a second time without one mechanism of the API, and must find over-grants then.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import RedisCluster as ClusterClient

from projector.ports import LOOPBACK
from tests.faults.background_loop import BackgroundLoop
from tests.faults.conftest import NewScenario, Redis
from tests.faults.old_views import (
    LATEST_POLL,
    MEETINGS_IGNORED,
    answer_slowly,
    come_back_from_an_old_dump,
    fail_over_to_a_replica_behind,
)
from tests.faults.proxy import Proxy
from tests.faults.scenario import HEALTHY, Faults, Scenario
from tests.integration.ports import free_port
from tests.integration.redis_servers import RedisCluster


@pytest.fixture
def three(tmp_path: Path) -> Iterator[RedisCluster]:
    with ExitStack() as stack:
        yield RedisCluster(tmp_path, stack)


@pytest.fixture
def redis_proxy(network: BackgroundLoop, redis: Redis) -> Iterator[tuple[Proxy, int]]:
    port = free_port()
    proxy = Proxy(network, port, redis.port)
    yield proxy, port
    proxy.close()


def test_redis_back_from_an_old_dump(new_scenario: NewScenario, redis: Redis) -> None:
    scenario = new_scenario("Redis back from an old dump")
    scenario.start(HEALTHY)
    come_back_from_an_old_dump(scenario, redis.server)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_meetings_ignored_after_an_old_dump(new_scenario: NewScenario, redis: Redis) -> None:
    scenario = new_scenario("MUTATION meetings ignored, old dump")
    scenario.api_faults = [MEETINGS_IGNORED]
    scenario.start(HEALTHY)
    come_back_from_an_old_dump(scenario, redis.server)
    assert scenario.finish().over_grants


@pytest.fixture
def with_cluster(new_scenario: NewScenario, three: RedisCluster) -> Iterator[Scenario]:
    scenario = new_scenario("", three.ports[0])
    scenario.deployment.use_redis(three.url)
    with ClusterClient(host=LOOPBACK, port=three.ports[0]) as redis:
        scenario.deployment.redis = redis
        yield scenario


def test_cluster_failed_over_to_replicas_behind(
    with_cluster: Scenario, three: RedisCluster, tmp_path: Path
) -> None:
    """One after the other, with the worker awake and asleep."""
    with ExitStack() as stack:
        scenario = with_cluster
        scenario.fault = "Redis Cluster failover, replicas behind"
        replicas = {number: three.add_replica(number, tmp_path, stack) for number in (1, 0)}
        scenario.start(HEALTHY)
        scenario.start_scripted()
        for number, replica in replicas.items():
            fail_over_to_a_replica_behind(scenario, three, number, replica, asleep=number == 0)
            scenario.until_fresh()
        scenario.finish().assert_clean()


def test_meetings_ignored_after_a_failover(
    with_cluster: Scenario, three: RedisCluster, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        scenario = with_cluster
        scenario.fault = "MUTATION meetings ignored, Cluster failover"
        scenario.api_faults = [MEETINGS_IGNORED]
        replica = three.add_replica(1, tmp_path, stack)
        scenario.start(HEALTHY)
        scenario.start_scripted()
        fail_over_to_a_replica_behind(scenario, three, 1, replica, asleep=True)
        assert scenario.finish().over_grants


def test_slow_connection(
    new_scenario: NewScenario, redis_proxy: tuple[Proxy, int], tmp_path: Path
) -> None:
    scenario = new_scenario("one slow connection to Redis")
    start_behind(scenario, redis_proxy[1], tmp_path / "stop")
    answer_slowly(scenario, tmp_path / "stop", redis_proxy[0])
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_latest_poll_with_a_slow_connection(
    new_scenario: NewScenario, redis_proxy: tuple[Proxy, int], tmp_path: Path
) -> None:
    scenario = new_scenario("MUTATION latest poll, one slow connection")
    scenario.api_faults = [LATEST_POLL]
    start_behind(scenario, redis_proxy[1], tmp_path / "stop")
    answer_slowly(scenario, tmp_path / "stop", redis_proxy[0])
    assert scenario.finish().over_grants


def start_behind(scenario: Scenario, port: int, trigger: Path) -> None:
    """Start everything, with the API behind a proxy to Redis."""
    faults: Faults = [("stop", {"trigger": str(trigger), "phase": "before views"})]
    scenario.create_topics()
    scenario.start_worker(*faults)
    scenario.deployment.use_redis(f"redis://{LOOPBACK}:{port}/0")
    scenario.start_traffic()
    scenario.warm_up()
