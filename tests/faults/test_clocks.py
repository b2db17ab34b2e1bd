"""Redis' clock ahead for a while, and keys of Redis that hold something else."""

import signal

import pytest

from tests.faults.conftest import FakedRedis, NewScenario
from tests.faults.interleavings import jump_for, spoil_keys
from tests.faults.scenario import BOUND_S, HEALTHY

HOURS_S = 2 * 3600
DAYS_S = 100 * 24 * 3600


@pytest.mark.parametrize(
    ("name", "ahead_s", "seconds"), [("hours", HOURS_S, 5.0), ("100 days", DAYS_S, 3.0)]
)
def test_ahead_for_seconds(
    new_scenario: NewScenario, faked_redis: FakedRedis, name: str, ahead_s: int, seconds: float
) -> None:
    """All live tokens would expire, and by 100 days their facts would be forgotten."""
    scenario = new_scenario(f"Redis' clock {name} ahead for {seconds:g} s", faked_redis.redis.port)
    scenario.start(HEALTHY, HEALTHY)
    jump_for(scenario, faked_redis.clock, ahead_s, seconds)
    scenario.until_fresh()
    scenario.until(lambda: scenario.heals() > 0, "everything was written again")
    scenario.add_proof(f"{scenario.heals()} heals")
    scenario.finish().assert_clean()


def test_back_while_the_worker_sleeps(new_scenario: NewScenario, faked_redis: FakedRedis) -> None:
    """By the new clock, the worker's last probe seems younger than it is."""
    scenario = new_scenario("Redis' clock steps back, worker asleep", faked_redis.redis.port)
    scenario.start(HEALTHY)
    scenario.start_scripted()
    worker = scenario.workers[0]
    scenario.begin_fault()
    worker.signal(signal.SIGSTOP)
    for scripted in scenario.scripted:
        scenario.send(scripted.revoked())
    scenario.run_for(BOUND_S - 1)
    faked_redis.clock.set(-8)
    scenario.run_for(BOUND_S)
    worker.signal(signal.SIGCONT)
    scenario.until(lambda: "clock jumped" in worker.log(), "the worker noticed")
    scenario.add_proof("8 s back, noticed")
    # By the clock alone, the last stamp from before the sleep seems fresh again now.
    scenario.run_for(2 * BOUND_S)
    faked_redis.clock.set(0)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_keys_of_other_types(new_scenario: NewScenario) -> None:
    scenario = new_scenario("keys in Redis overwritten")
    scenario.start(HEALTHY, HEALTHY)
    spoil_keys(scenario)
    scenario.until_fresh()
    scenario.finish().assert_clean()
