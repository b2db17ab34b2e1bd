"""Redis emptied, restarted, frozen, or failed over to a replica without the last writes."""

import signal
from pathlib import Path
from typing import Any

import pytest
import redis as client

from tests.faults.conftest import NewRedis, NewScenario, Redis
from tests.faults.interleavings import ReplicatedRedis, flush_everything, lose_a_view, revisions
from tests.faults.scenario import BOUND_S, HEALTHY, Scenario
from tests.integration.servers import eventually

# Events that a detached replica misses: the writes that the failover loses.
DETACHED_EVENTS = 80


def test_flushed(new_scenario: NewScenario) -> None:
    scenario = new_scenario("Redis FLUSHALL")
    scenario.start(HEALTHY, HEALTHY)
    flush_everything(scenario)
    scenario.until_fresh()
    prove_heals(scenario)
    scenario.finish().assert_clean()


def test_restarted_empty(new_scenario: NewScenario, redis: Redis) -> None:
    scenario = new_scenario("Redis restarted empty")
    scenario.start(HEALTHY, HEALTHY)
    restart(scenario, redis)
    scenario.add_proof("another run_id, nothing on disk")
    scenario.until_fresh()
    prove_heals(scenario)
    scenario.finish().assert_clean()


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_restarted_with_append_only_file(
    new_scenario: NewScenario, new_redis: NewRedis, fsync: str
) -> None:
    redis = new_redis("--appendonly", "yes", "--appendfsync", fsync)
    scenario = new_scenario(f"Redis restarted, AOF {fsync}", redis.port)
    scenario.start(HEALTHY, HEALTHY)
    restart(scenario, redis)
    assert "loaded from append only file" in redis.server.log()
    scenario.add_proof("another run_id, loaded from the AOF")
    scenario.until_fresh()
    prove_heals(scenario)
    scenario.finish().assert_clean()


def test_scripts_flushed(new_scenario: NewScenario) -> None:
    scenario = new_scenario("Redis SCRIPT FLUSH")
    scenario.start(HEALTHY, HEALTHY)

    def missed() -> int:
        errors = scenario.deployment.redis.info("errorstats")
        return int(errors.get("errorstat_NOSCRIPT", {}).get("count", 0))

    already = missed()
    scenario.begin_fault()
    scenario.deployment.redis.script_flush()
    scenario.until(lambda: missed() > already, "a worker gets NOSCRIPT")
    scenario.add_proof(f"{missed() - already} NOSCRIPT")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_frozen(new_scenario: NewScenario, redis: Redis) -> None:
    scenario = new_scenario("Redis SIGSTOP beyond the bound")
    scenario.start(HEALTHY, HEALTHY)
    scenario.begin_fault()
    redis.server.signal(signal.SIGSTOP)
    scenario.run_past_the_bound()
    scenario.until_stale()
    redis.server.signal(signal.SIGCONT)
    scenario.add_proof(f"stopped for more than {BOUND_S:g} s, 503")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_failed_over_to_a_replica_behind(
    new_scenario: NewScenario, replicated_redis: ReplicatedRedis
) -> None:
    scenario = new_scenario("Redis failover, replica behind", replicated_redis.port)
    scenario.start(HEALTHY, HEALTHY)
    fall_behind(scenario, replicated_redis.old, replicated_redis.new)
    replicated_redis.fail_over()
    scenario.until_fresh()
    prove_heals(scenario)
    scenario.finish().assert_clean()


def test_failed_over_to_a_replica_without_one_view(
    new_scenario: NewScenario, replicated_redis: ReplicatedRedis, tmp_path: Path
) -> None:
    scenario = new_scenario("Redis failover, one view behind", replicated_redis.port)
    trigger = tmp_path / "stop"
    scenario.start([("stop", {"trigger": str(trigger), "phase": "after views"})])
    lose_a_view(scenario, trigger, replicated_redis)
    scenario.until_fresh()
    prove_heals(scenario)
    scenario.finish().assert_clean()


def test_failed_over_behind_kept_connections(
    new_scenario: NewScenario, kept_redis: ReplicatedRedis, tmp_path: Path
) -> None:
    scenario = new_scenario("Redis failover, connections kept", kept_redis.port)
    trigger = tmp_path / "stop"
    scenario.start([("stop", {"trigger": str(trigger), "phase": "after views"})])
    lose_a_view(scenario, trigger, kept_redis)
    scenario.until_fresh()
    prove_heals(scenario)
    scenario.finish().assert_clean()


def restart(scenario: Scenario, redis: Redis) -> None:
    """Kill Redis and start it again with what is on disk."""
    before = run_id(scenario.deployment.redis)
    scenario.begin_fault()
    redis.server.kill()
    redis.server.start()
    eventually(lambda: answers(scenario.deployment.redis), "Redis answers again")
    assert run_id(scenario.deployment.redis) != before


def fall_behind(scenario: Scenario, old: Any, new: Any) -> None:
    """Detach the replica, let the primary go on, and prove what the replica lacks."""
    detached_at = scenario.traffic.count
    new.replicaof("NO", "ONE")
    scenario.until(lambda: scenario.traffic.count > detached_at + DETACHED_EVENTS, "more traffic")
    scenario.begin_fault()
    old.client_pause(60_000, all=False)
    behind = sum(revisions(old)) - sum(revisions(new))
    missing = len(tokens(old) - tokens(new))
    assert behind > 0
    assert missing > 0
    scenario.add_proof(f"{behind} revisions and {missing} tokens behind")


def prove_heals(scenario: Scenario) -> None:
    """Prove that workers wrote everything from memory."""
    assert scenario.heals() > 0
    scenario.add_proof(f"{scenario.heals()} heals")


def tokens(redis: Any) -> set[bytes]:
    return set(redis.keys("allowed-agents:token:*"))


def run_id(redis: Any) -> str:
    return str(redis.info("server")["run_id"])


def answers(redis: Any) -> bool:
    try:
        return bool(redis.ping())
    except client.RedisError:
        return False
