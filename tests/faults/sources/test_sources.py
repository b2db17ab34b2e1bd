"""A source that stops, comes back, lies, and has several senders: 503, never an old answer.

The observer's bound runs from the moment of a change in the source.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from projector.events.model import Topic
from projector.ports import is_listening
from projector.worker.sources import INVALID, UNKNOWN, UNTRUE
from tests.faults.checker import Verdict
from tests.faults.conftest import NewRedis, NewScenario
from tests.faults.expected_answers import TOLERANCE_S
from tests.faults.fake_clock import clock_apart
from tests.faults.scenario import BOUND_S, HEALTHY, SEND_S
from tests.faults.sources.feeder import MOMENTS
from tests.faults.sources.lies import tell_lies
from tests.faults.sources.scenario import Feeder, SourceScenario
from tests.faults.sources.stories import (
    LATE_EVENTS,
    change_source,
    go_on,
    kill,
    lag_behind,
    overtake_events,
    prove_silence,
    prove_staleness,
    seconds_until_right,
    stop_past_the_bound,
)
from tests.integration.conftest import apache_or_skip
from tests.integration.ports import free_port
from tests.integration.servers import apache_kafka, eventually, running

pytestmark = pytest.mark.alone

NewStory = Callable[..., SourceScenario]

# Seconds from a feeder's first heartbeat until all is right: one, and two for the machine's stalls.
# The report has those that were measured.
BACK_S = 3.0
REDIS_AHEAD_S, BROKER_BEHIND_S, FEEDER_BEHIND_S = 7 * 60, 5 * 60, 11 * 60
# Over-grants of a mutation: one alone might be a slow machine's.
NOTICED = 20
KILLS = len(MOMENTS)


@pytest.fixture
def new_story(new_scenario: NewScenario) -> NewStory:
    return partial(new_scenario, kind=SourceScenario)  # type: ignore[return-value]


@pytest.fixture
def broker_apart(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a Kafka whose clock is minutes behind."""
    apache_or_skip("apache")
    port = free_port()
    folder = tmp_path / "kafka"
    folder.mkdir()
    with running(apache_kafka(folder, port, env=clock_apart(-BROKER_BEHIND_S))) as server:
        eventually(lambda: is_listening(port), f"broker listening: {server.log()}")
        yield f"127.0.0.1:{port}"


def test_clocks_apart(new_story: NewStory, new_redis: NewRedis, broker_apart: str) -> None:
    """No clock decides how old a source is: the order of events and heartbeats does."""
    redis = new_redis(env=clock_apart(REDIS_AHEAD_S))
    scenario = new_story("clocks of feeder, Kafka, Redis minutes apart", redis.port, broker_apart)
    scenario.expiries = False
    feeder = scenario.start_fed(HEALTHY, env=clock_apart(-FEEDER_BEHIND_S))
    apart = clocks(scenario)
    assert [*map(round, apart)] == [REDIS_AHEAD_S, -BROKER_BEHIND_S, -FEEDER_BEHIND_S]
    scenario.add_proof("Redis {:+.0f} s, Kafka {:+.0f} s, feeder {:+.0f} s".format(*apart))
    stop_past_the_bound(scenario, feeder)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def clocks(scenario: SourceScenario) -> tuple[float, float, float]:
    """Return by how many seconds Redis, Kafka and the feeder are ahead."""
    seconds, microseconds = scenario.deployment.redis.time()
    redis = seconds + microseconds / 1e6 - time.time()
    place = TopicPartition(scenario.deployment.prefix + Topic.MEMBERSHIP, 0)

    async def read_next() -> ConsumerRecord:
        async with AIOKafkaConsumer(bootstrap_servers=scenario.deployment.kafka) as consumer:
            consumer.assign([place])
            return await consumer.getone()

    record = scenario.background.run(read_next(), SEND_S)
    now = time.time()
    sent = datetime.fromisoformat(json.loads(record.value)["time"]).timestamp()
    return redis, record.timestamp / 1000 - now, sent - now


def test_stopped_and_killed(new_story: NewStory) -> None:
    """Lies neither hold up the feeder's heartbeats, nor replace them."""
    scenario = new_story("feeder stopped; then killed, and lies told")
    feeder = scenario.start_fed(HEALTHY, HEALTHY)
    returned = stop_past_the_bound(scenario, feeder)
    scenario.run_for(BACK_S + 1)
    back = [seconds_until_right(scenario, returned)]

    for scripted in scenario.scripted:
        scenario.send(scripted.granted())
        scenario.until_agents(scripted, (scripted.agent,))
    lies = tell_lies(scenario, BOUND_S)
    assert seconds_until_right(scenario, returned) == back[0], "lies held up the feeder"
    killed = kill(scenario, feeder)
    change_source(scenario, 2)
    lies += tell_lies(scenario, 2 * BOUND_S + TOLERANCE_S)
    returned = go_on(scenario, feeder)
    prove_silence(scenario, killed, returned)
    for kind in (UNTRUE, INVALID, UNKNOWN):
        assert scenario.logged(f'"kind": "{kind}"')
    scenario.run_for(BACK_S + 1)
    back.append(seconds_until_right(scenario, returned))
    scenario.add_proof(f"right after {back[0]:.2f} and {back[1]:.2f} s; {lies} lies")
    assert max(back) < BACK_S
    scenario.finish().assert_clean()


def test_killed_and_overtaken(new_story: NewStory) -> None:
    """The next run sends again what was not noted, and vouches for what it asked Kafka for."""
    scenario = new_story("feeder killed before heartbeats; these overtake events")
    feeder = scenario.start_fed([LATE_EVENTS])
    scenario.begin_fault()
    for number in range(KILLS):
        feeder.kill_at(MOMENTS[number % len(MOMENTS)])
        scenario.until(feeder.is_dead, "the feeder is dead")
        feeder.server.start()
        beats = len(feeder.lines("heartbeat"))
        scenario.until(partial(has_beaten, feeder, beats + 2), "two heartbeats")
    looks = Counter(look[0] for _, look in feeder.lines("looked") if look[1] != "0")
    again = sum(times > 1 for times in looks.values())
    assert again >= 2
    scenario.add_proof(f"{KILLS} kills, changes sent again after {again}")
    overtake_events(scenario, feeder)
    scenario.until_fresh()
    scenario.finish().assert_clean()


def has_beaten(feeder: Feeder, times: int) -> bool:
    return len(feeder.lines("heartbeat")) >= times


def test_heartbeats_without_offsets(new_story: NewStory) -> None:
    scenario = new_story("MUTATION heartbeats without offsets, overtaken")
    feeder = scenario.start_fed([("heartbeats without offsets", {}), LATE_EVENTS])
    overtake_events(scenario, feeder)
    assert_noticed(scenario.judge())


def test_two_feeders(new_story: NewStory) -> None:
    """The slow one vouches for the past: it neither replaces nor holds up the other."""
    scenario = new_story("two feeders, one slow; the other killed, and back")
    feeder = scenario.start_fed(HEALTHY)
    killed = lag_behind(scenario, feeder)
    returned = go_on(scenario, feeder)
    prove_staleness(scenario, killed, returned)
    scenario.until_fresh()
    fresh = time.monotonic()
    verdict = scenario.finish()
    assert {h.status for h in scenario.observer.health if h.at > fresh} == {200}
    verdict.assert_clean()


def test_heartbeats_without_after(new_story: NewStory) -> None:
    scenario = new_story("MUTATION heartbeats without after, slow feeder")
    feeder = scenario.start_fed([("heartbeats without after", {})])
    lag_behind(scenario, feeder)
    assert_noticed(scenario.judge())


def assert_noticed(verdict: Verdict) -> None:
    assert len(verdict.over_grants) > NOTICED
    assert verdict.false_401s
