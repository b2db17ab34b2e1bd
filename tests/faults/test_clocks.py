"""Redis' clock ahead for a while, and keys of Redis that hold something else."""

import pytest

from tests.faults.conftest import FakedRedis, NewScenario
from tests.faults.interleavings import jump_for, spoil_keys, step_back
from tests.faults.scenario import HEALTHY

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
    """By the clock alone, the last stamp from before the sleep would seem fresh again."""
    scenario = new_scenario("Redis' clock steps back, worker asleep", faked_redis.redis.port)
    scenario.start(HEALTHY)
    step_back(scenario, faked_redis.clock)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_keys_of_other_types(new_scenario: NewScenario) -> None:
    scenario = new_scenario("keys in Redis overwritten")
    scenario.start(HEALTHY, HEALTHY)
    spoil_keys(scenario)
    scenario.until_fresh()
    scenario.finish().assert_clean()
