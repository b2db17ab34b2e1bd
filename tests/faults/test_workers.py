"""Workers that are killed, restarted, or stopped and woken."""

import signal
from pathlib import Path

import pytest

from tests.faults import fault_injection
from tests.faults.conftest import NewScenario
from tests.faults.interleavings import wake_zombie
from tests.faults.scenario import HEALTHY

NTH = 20
BACKLOG = 3000


@pytest.mark.parametrize("phase", fault_injection.PHASES)
def test_kill_9(new_scenario: NewScenario, tmp_path: Path, phase: str) -> None:
    scenario = new_scenario(f"kill -9 {phase}")
    trigger = tmp_path / "kill"
    scenario.start([("kill", {"phase": phase, "nth": NTH, "trigger": str(trigger)})], HEALTHY)
    doomed = scenario.workers[0]
    scenario.begin_fault()
    trigger.touch()
    scenario.until(lambda: doomed.process.poll() is not None, "the worker was killed")
    assert doomed.process.returncode == -signal.SIGKILL
    before = scenario.claims()
    scenario.until_fresh()
    scenario.add_proof(f"exit {doomed.process.returncode}, {scenario.claims() - before} claims")
    assert scenario.claims() > before
    scenario.finish().assert_clean()


def test_restart_with_a_backlog(new_scenario: NewScenario) -> None:
    scenario = new_scenario("restart with a backlog")
    scenario.start(HEALTHY)
    worker = scenario.workers[0]
    assert worker.stop() == 0
    scenario.begin_fault()
    before = scenario.traffic.count
    usual, scenario.traffic.rate = scenario.traffic.rate, 10.0 * BACKLOG
    scenario.until(lambda: scenario.traffic.count > before + BACKLOG, "the backlog")
    scenario.traffic.rate = usual
    scenario.add_proof(f"exit 0, {scenario.traffic.count - before:,} events waiting")
    worker.start()
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_zombie(new_scenario: NewScenario, tmp_path: Path) -> None:
    scenario = new_scenario("zombie")
    trigger = tmp_path / "stop"
    scenario.start([("stop", {"trigger": str(trigger), "phase": "before views"})], HEALTHY)
    zombie = wake_zombie(scenario, trigger)
    assert not scenario.owned_by(zombie)
    scenario.until(lambda: "refused" in zombie.log(), "the zombie's writes are refused")
    scenario.add_proof(f"{zombie.log().count('refused')} writes of the zombie refused")
    scenario.finish().assert_clean()
