"""Workers that die, stop, sleep, and come and go."""

import signal

import pytest

from tests.faults import shim
from tests.faults.conftest import NewScenario


@pytest.mark.parametrize("phase", shim.PHASES)
def test_kill_9(new_scenario: NewScenario, phase: str) -> None:
    scenario = new_scenario(f"kill -9 {phase}")
    scenario.start(2, ("kill", {"phase": phase, "nth": 150}))
    doomed = scenario.workers[0]
    scenario.until(lambda: doomed.process.poll() is not None, "the worker killed itself")
    scenario.inject()
    assert doomed.process.returncode == -signal.SIGKILL
    scenario.prove(f"exit {doomed.process.returncode}")
    scenario.start_worker()
    scenario.until_fresh()
    scenario.finish().assert_clean()
