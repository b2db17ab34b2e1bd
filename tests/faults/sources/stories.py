"""Stories of feeders that fall silent, lag, or are overtaken by their own heartbeats.

Some run a second time, with one rule for heartbeats taken out of the workers.
"""

import signal
import time
from typing import Final

from tests.faults.expected_answers import TOLERANCE_S
from tests.faults.old_views import look_up_often, tokens
from tests.faults.scenario import BOUND_S, Fault
from tests.faults.sources.scenario import GRACE_S, NAME, SLOW, Feeder, SourceScenario, ending
from tests.faults.traffic import RATE

# Seconds after which a look is too old for an answer.
LAG_S: Final = BOUND_S + TOLERANCE_S + 1
# Shorter than the stall after which an owner reads by itself the records that Faust does not bring.
LATE_S: Final = 1.8
# An attribute of events that Faust brings late to the worker.
LATE: Final = "late"
LATE_EVENTS: Final[Fault] = ("hold delivery", {"text": f'"{LATE}"', "seconds": LATE_S})
REASON: Final = f"source {NAME} has been silent for "


def fall_silent(scenario: SourceScenario, feeder: Feeder) -> float:
    """Stop the feeder's process; return the time."""
    scenario.traffic.rate = SLOW
    feeder.server.signal(signal.SIGSTOP)
    return time.monotonic()


def kill(scenario: SourceScenario, feeder: Feeder) -> float:
    """Kill the feeder's process; return the time."""
    scenario.traffic.rate = SLOW
    feeder.server.kill()
    return time.monotonic()


def come_back(scenario: SourceScenario, feeder: Feeder) -> float:
    """Let the feeder's process go on; return the time."""
    returned = time.monotonic()
    feeder.server.signal(signal.SIGCONT)
    scenario.traffic.rate = RATE
    return returned


def change_source(scenario: SourceScenario, number: int, **attributes: str) -> None:
    """Start a job, end one and revoke the agent of each scripted namespace, in the source alone."""
    for scripted in scenario.scripted:
        token = scripted.another_token(number)
        scenario.observer.watched.append(token)
        scenario.send(scripted.started(token) | attributes, token)
        scenario.send(scripted.finished(ending(scripted)) | attributes)
        scenario.send(scripted.revoked() | attributes)


def watch_revoked(scenario: SourceScenario) -> None:
    """Look the revoked tokens up often: most clients of the observer wait for unknown ones."""
    revoked = [*tokens(scenario.scripted), *map(ending, scenario.scripted)]
    scenario.background.start(look_up_often(scenario.observer, revoked))


def wait_past_the_bound(scenario: SourceScenario) -> None:
    """Let time pass until answers from before the last change are findings, and then some."""
    scenario.run_past_the_bound()
    scenario.run_for(BOUND_S)


def prove_silence(scenario: SourceScenario, stopped: float, returned: float) -> None:
    """Prove that nothing was fresh beyond the bound, and that every 503 named the source."""
    past = prove_staleness(scenario, stopped, returned)
    refused = scenario.refused(past + GRACE_S, returned)
    others = [each.reason for each in refused if not each.reason.startswith(REASON)]
    assert refused
    assert not others, f"{len(others)} of {len(refused)}: {others[0]}"
    scenario.add_proof(f"{len(refused)} x 503 named the source")


def prove_staleness(scenario: SourceScenario, stopped: float, returned: float) -> float:
    """Prove that nothing was fresh from the bound until the return; return the bound's time."""
    past = stopped + BOUND_S + TOLERANCE_S
    assert {h.status for h in scenario.observer.health if past < h.at < returned} == {503}
    return past


def seconds_until_right(scenario: SourceScenario, returned: float) -> float:
    """Return the seconds from a return until all was answered and fresh again."""
    observer = scenario.observer
    refused = [each.received for each in observer.lookups if each.status == 503]
    stale = [health.at for health in observer.health if health.status != 200]
    return max(0.0, *(at - returned for at in (*refused, *stale)))


def overtake_events(scenario: SourceScenario, feeder: Feeder) -> None:
    """Let heartbeats reach the workers before the events that they vouch for.

    The events are from the time of a silence that ends. Other traffic would show their absence.
    """
    scenario.start_scripted()
    scenario.pause_traffic()
    scenario.begin_fault()
    fall_silent(scenario, feeder)
    change_source(scenario, 1, late="yes")
    wait_past_the_bound(scenario)
    watch_revoked(scenario)
    returned = come_back(scenario, feeder)
    scenario.run_for(LATE_S + 1)
    beats = [at for at, _ in feeder.lines("heartbeat") if returned < at < returned + LATE_S]
    assert len(beats) > 1
    scenario.add_proof(f"{len(beats)} heartbeats before the events")
    scenario.resume_traffic()


def lag_behind(scenario: SourceScenario, feeder: Feeder) -> float:
    """Kill the feeder beside one whose events and heartbeats are of a look long ago.

    Returns the time.
    """
    scenario.start_scripted()
    scenario.begin_fault()
    slow = scenario.start_feeder(LAG_S)
    scenario.until(lambda: bool(slow.lines("looked")), "the slow feeder has looked")
    killed = kill(scenario, feeder)
    change_source(scenario, 1)
    wait_past_the_bound(scenario)
    watch_revoked(scenario)
    scenario.run_for(LAG_S + BOUND_S - (time.monotonic() - killed))
    scenario.add_proof(f"{len(slow.lines('heartbeat'))} heartbeats {LAG_S:g} s late")
    return killed


def go_on(scenario: SourceScenario, feeder: Feeder) -> float:
    """Start the feeder that was killed; return the time of its first heartbeat."""
    beats = len(feeder.lines("heartbeat"))
    feeder.server.start()
    scenario.traffic.rate = RATE
    scenario.until(lambda: len(feeder.lines("heartbeat")) > beats, "a heartbeat")
    return feeder.lines("heartbeat")[beats][0]


def stop_past_the_bound(scenario: SourceScenario, feeder: Feeder) -> float:
    """Stop the feeder until answers are too old, and prove the silence; return its return."""
    scenario.start_scripted()
    scenario.begin_fault()
    stopped = fall_silent(scenario, feeder)
    change_source(scenario, 1)
    wait_past_the_bound(scenario)
    returned = come_back(scenario, feeder)
    prove_silence(scenario, stopped, returned)
    return returned
