"""Mutations: the same interleavings without one mechanism of the product, to test the observer.

A fault table of zeros proves something only if the same suite finds wrong answers here.
"""

import signal
from pathlib import Path
from typing import Final

from tests.faults.brokers import Brokers
from tests.faults.conftest import Broker, NewScenario
from tests.faults.interleavings import (
    ReplicatedRedis,
    flush_everything,
    lose_a_view,
    revoke_behind_a_deposed_leader,
    revoke_while_cut_off,
    wake_zombie,
)
from tests.faults.scenario import Fault, Faults
from tests.faults.test_events import DISTURBED, DISTURBED_EVENTS

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
