"""Mutations: the same interleavings without one mechanism of the product, to test the observer.

A fault table of zeros proves something only if the same suite finds wrong answers here.
"""

import signal
from pathlib import Path
from typing import Final

from tests.faults.brokers import Brokers
from tests.faults.conftest import Broker, FakedRedis, NewScenario
from tests.faults.interleavings import (
    ReplicatedRedis,
    flush_everything,
    jump_for,
    lose_a_view,
    revoke_behind_a_deposed_leader,
    revoke_while_cut_off,
    start_jobs_behind_agents,
    step_back,
    wake_zombie,
)
from tests.faults.scenario import HEALTHY, Fault, Faults
from tests.faults.test_clocks import HOURS_S
from tests.faults.test_events import DISTURBED, DISTURBED_EVENTS, HELD_AGENTS

SWEEP_OFF: Final[Fault] = ("sweep off", {})


def test_delivery_check_off(new_scenario: NewScenario) -> None:
    scenario = new_scenario("MUTATION delivery check off, 5 % disturbed")
    scenario.start(*([("delivery check off", {}), fault] for fault in DISTURBED))
    scenario.begin_fault()
    before = scenario.traffic.count
    scenario.until(lambda: scenario.traffic.count > before + DISTURBED_EVENTS, "more traffic")
    verdict = scenario.finish()
    assert verdict.false_401s
    assert verdict.wrong


def test_fencing_off(new_scenario: NewScenario, tmp_path: Path) -> None:
    scenario = new_scenario("MUTATION fencing off, zombie")
    trigger = tmp_path / "stop"
    # The worker stops again after its write; otherwise it would soon correct the view.
    stop = ("stop", {"trigger": str(trigger), "phase": "around views"})
    scenario.start([("fencing off", {}), SWEEP_OFF, stop], [("fencing off", {}), SWEEP_OFF])
    zombie = wake_zombie(scenario, trigger)
    scenario.run_past_the_bound()
    zombie.signal(signal.SIGCONT)
    verdict = scenario.finish()
    assert verdict.over_grants


def test_heal_off(new_scenario: NewScenario) -> None:
    scenario = new_scenario("MUTATION heal off, FLUSHALL")
    mutated: Faults = [("heal off", {}), SWEEP_OFF]
    scenario.start(mutated, mutated)
    flush_everything(scenario)
    scenario.run_past_the_bound()
    verdict = scenario.finish()
    assert verdict.false_401s
    assert verdict.wrong


def test_freshness_off(new_scenario: NewScenario, broker: Broker) -> None:
    scenario = new_scenario("MUTATION freshness off, cut off from Kafka")
    scenario.deployment.env["PROJECTOR_KAFKA"] = broker.proxied
    scenario.start([("freshness off", {})], [("freshness off", {})])
    revoke_while_cut_off(scenario, broker.proxy)
    broker.proxy.thaw()
    assert scenario.finish().over_grants


def test_first_views_at_once(new_scenario: NewScenario) -> None:
    scenario = new_scenario("MUTATION first views at once, agent-config late")
    scenario.start([("first views at once", {}), HELD_AGENTS])
    start_jobs_behind_agents(scenario)
    assert scenario.finish().short


def test_one_witness(new_scenario: NewScenario, brokers: Brokers) -> None:
    scenario = new_scenario("MUTATION one witness, leader deposed", kafka=brokers.address)
    scenario.start([("one witness", {})])
    revoke_behind_a_deposed_leader(scenario, brokers)
    brokers.mend()
    verdict = scenario.finish()
    assert verdict.over_grants
    assert verdict.false_401s


def test_server_change_unnoticed(
    new_scenario: NewScenario, replicated_redis: ReplicatedRedis, tmp_path: Path
) -> None:
    scenario = new_scenario("MUTATION server change unnoticed, failover", replicated_redis.port)
    trigger = tmp_path / "stop"
    stop = ("stop", {"trigger": str(trigger), "phase": "after views"})
    scenario.start([("server change unnoticed", {}), SWEEP_OFF, stop])
    lose_a_view(scenario, trigger, replicated_redis)
    verdict = scenario.finish()
    assert verdict.over_grants
    assert verdict.wrong


def test_server_known_by_its_connection(
    new_scenario: NewScenario, kept_redis: ReplicatedRedis, tmp_path: Path
) -> None:
    scenario = new_scenario("MUTATION server known by its connection", kept_redis.port)
    trigger = tmp_path / "stop"
    stop = ("stop", {"trigger": str(trigger), "phase": "after views"})
    scenario.start([("server known by its connection", {}), SWEEP_OFF, stop])
    lose_a_view(scenario, trigger, kept_redis)
    verdict = scenario.finish()
    assert verdict.over_grants
    assert verdict.wrong


def test_every_clock_reading_believed(new_scenario: NewScenario, faked_redis: FakedRedis) -> None:
    scenario = new_scenario("MUTATION every clock reading believed", faked_redis.redis.port)
    mutated: Faults = [("every clock reading believed", {}), SWEEP_OFF]
    scenario.start(mutated, mutated)
    # After the jump hardly a token is valid.
    scenario.until(scenario._has_seen_enough, "enough answers of before")
    jump_for(scenario, faked_redis.clock, HOURS_S, 5.0)
    scenario.run_past_the_bound()
    verdict = scenario.finish()
    assert verdict.false_401s
    assert verdict.wrong


def test_stamps_that_grow_younger(new_scenario: NewScenario, faked_redis: FakedRedis) -> None:
    scenario = new_scenario("MUTATION stamps grow younger", faked_redis.redis.port)
    scenario.api_faults = [("stamps grow younger", {})]
    scenario.start(HEALTHY)
    step_back(scenario, faked_redis.clock)
    assert scenario.finish().over_grants
