"""A source that stops, comes back, lies, and has several senders: 503, never an old answer.

The observer's bound runs from the moment of a change in the source.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from tests.faults.conftest import NewScenario
from tests.faults.scenario import HEALTHY
from tests.faults.sources.feeder import MOMENTS
from tests.faults.sources.scenario import SourceScenario
from tests.faults.sources.stories import (
    LATE_EVENTS,
    change_source,
    come_back,
    fall_silent,
    go_on,
    lag_behind,
    overtake_events,
    prove_silence,
    seconds_until_right,
    wait_past_the_bound,
)
from tests.faults.traffic import RATE

NewStory = Callable[..., SourceScenario]

# Seconds from a feeder's first heartbeat until all is right.
BACK_S = 1.0
KILLS = 2 * len(MOMENTS)


@pytest.fixture
def new_story(new_scenario: NewScenario) -> NewStory:
    return partial(new_scenario, kind=SourceScenario)  # type: ignore[return-value]


def test_stopped_and_killed(new_story: NewStory) -> None:
    scenario = new_story("feeder stopped, then killed")
    feeder = scenario.start_fed(HEALTHY, HEALTHY)
    scenario.start_scripted()
    scenario.begin_fault()
    stopped = fall_silent(scenario, feeder)
    change_source(scenario, 1)
    wait_past_the_bound(scenario)
    returned = come_back(scenario, feeder)
    prove_silence(scenario, stopped, returned)
    scenario.run_for(3 * BACK_S)
    back = [seconds_until_right(scenario, returned)]
    for scripted in scenario.scripted:
        scenario.send(scripted.granted())
        scenario.until_agents(scripted, (scripted.agent,))
    scenario.traffic.rate = RATE
    feeder.server.kill()
    change_source(scenario, 2)
    wait_past_the_bound(scenario)
    scenario.until_stale()
    first_beat = go_on(scenario, feeder)
    scenario.run_for(3 * BACK_S)
    back.append(seconds_until_right(scenario, first_beat))
    scenario.add_proof("right after " + " and ".join(f"{each:.2f} s" for each in back))
    assert max(back) < BACK_S
    scenario.finish().assert_clean()


def test_killed_before_its_heartbeat(new_story: NewStory) -> None:
    """It sends again what it had not noted, and vouches for nothing that it does not know."""
    scenario = new_story("feeder killed between events and heartbeat")
    feeder = scenario.start_fed(HEALTHY)
    scenario.start_scripted()
    scenario.begin_fault()
    for number in range(KILLS):
        beats = len(feeder.lines("heartbeat"))
        feeder.kill_at(MOMENTS[number % len(MOMENTS)])
        scenario.until(feeder.is_dead, "the feeder is dead")
        feeder.server.start()
        scenario.until(lambda b=beats: len(feeder.lines("heartbeat")) > b + 2, "heartbeats")
    looks = Counter(look[0] for _, look in feeder.lines("looked") if look[1] != "0")
    again = sum(times > 1 for times in looks.values())
    assert again >= KILLS // 2
    scenario.add_proof(f"{KILLS} kills, changes sent again after {again}")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_two_feeders(new_story: NewStory) -> None:
    """The slow one vouches for the past: it neither holds up nor replaces the other."""
    scenario = new_story("two feeders, one slow; the other killed")
    feeder = scenario.start_fed(HEALTHY)
    lag_behind(scenario, feeder)
    scenario.until_stale()
    go_on(scenario, feeder)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_heartbeats_without_after(new_story: NewStory) -> None:
    scenario = new_story("MUTATION heartbeats without after, slow feeder")
    feeder = scenario.start_fed([("heartbeats without after", {})])
    lag_behind(scenario, feeder)
    go_on(scenario, feeder)
    verdict = scenario.finish()
    assert verdict.over_grants
    assert verdict.false_401s


def test_overtaken(new_story: NewStory) -> None:
    scenario = new_story("heartbeats overtake events")
    feeder = scenario.start_fed([LATE_EVENTS])
    overtake_events(scenario, feeder)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_heartbeats_without_offsets(new_story: NewStory) -> None:
    scenario = new_story("MUTATION heartbeats without offsets, overtaken")
    feeder = scenario.start_fed([("heartbeats without offsets", {}), LATE_EVENTS])
    overtake_events(scenario, feeder)
    verdict = scenario.finish()
    assert verdict.over_grants
    assert verdict.false_401s
