"""A topic made again and filled beyond the old offsets: an alarm and 503, never an old answer."""

import signal
import time
from typing import Final

import pytest

from tests.faults.conftest import NewScenario
from tests.faults.namespaces import ScriptedNamespace
from tests.faults.other_logs import replace_membership
from tests.faults.scenario import BOUND_S, HEALTHY, Faults, Scenario

ALARM: Final = "history lost, the partition stays stale"
UNNOTICED: Final[Faults] = [("log identity off", {}), ("sweep off", {})]


@pytest.mark.parametrize("worker", ["stopped", "running"])
def test_topic_made_again_and_filled(new_scenario: NewScenario, worker: str) -> None:
    """The worker would go on at its old offset, and never apply the revocation before it."""
    scenario = new_scenario(f"membership made again and filled, worker {worker}")
    victim = replace_log(scenario, HEALTHY, is_running=worker == "running")
    scenario.until(lambda: scenario.logged(ALARM) > 0, "the alarm")
    since = time.monotonic() + BOUND_S
    scenario.run_past_the_bound()
    answers = {
        lookup.status
        for lookup in scenario.observer.lookups
        if lookup.token == victim.token and lookup.sent > since
    }
    assert answers == {503}
    scenario.judge().assert_clean()


def test_log_identity_off(new_scenario: NewScenario) -> None:
    scenario = new_scenario("MUTATION log identity off, membership made again")
    replace_log(scenario, UNNOTICED, is_running=True)
    scenario.run_past_the_bound()
    scenario.run_past_the_bound()
    assert scenario.judge().over_grants


def replace_log(scenario: Scenario, faults: Faults, *, is_running: bool) -> ScriptedNamespace:
    """Replace the log of membership while the worker is stopped, or sleeps between two probes."""
    scenario.start(faults)
    scenario.start_scripted()
    victim = scenario.scripted[0]
    scenario.observer.watched = [victim.token]
    scenario.pause_traffic()
    scenario.until_fresh()
    worker = scenario.workers[0]
    scenario.begin_fault()
    if is_running:
        # Or a probe may meet the topic while it is shorter than before, which was always noticed.
        worker.signal(signal.SIGSTOP)
        replace_membership(scenario, victim)
        worker.signal(signal.SIGCONT)
    else:
        worker.stop()
        replace_membership(scenario, victim)
        worker.start()
    return victim
