"""Deliveries that go wrong, and records that should not be there."""

import time
from collections.abc import Iterator

from tests import build
from tests.faults import poison
from tests.faults.conftest import SEED, NewScenario
from tests.faults.scenario import SOUND, Raw, Scenario
from tests.faults.world import Event, Root
from tests.integration.deployment import PARTITIONS

POISON = 3000
CHUNK = 200
DISTURBED = ("disturb delivery", {"seed": SEED, "share": 0.05})
DISTURBED_EVENTS = 1500
GAP = '"event": "gap"'


def test_delivery_disturbed(new_scenario: NewScenario) -> None:
    scenario = new_scenario("5 % dropped, repeated, delayed")
    scenario.start([DISTURBED], [DISTURBED])
    scenario.inject()
    before = scenario.traffic.count
    scenario.until(lambda: scenario.traffic.count > before + DISTURBED_EVENTS, "more traffic")
    assert scenario.logged(GAP) > 10
    scenario.prove(f"{scenario.logged(GAP)} gaps read")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_poison(new_scenario: NewScenario) -> None:
    """Thousands of bad records in one partition: no partition grows stale, all are reported."""
    scenario = new_scenario("poison in one partition")
    scenario.start(SOUND, SOUND)
    victim = scenario.traffic.roots[0]
    scenario.inject()
    began = time.monotonic()
    records = list(poison.records(victim.root, victim.partition, POISON, SEED))
    for first in range(0, POISON, CHUNK):
        scenario.produce(*records[first : first + CHUNK])
    scenario.until(lambda: len(scenario.dead_letters()) >= POISON, f"{POISON} dead letters")
    letters = scenario.dead_letters()
    assert {partition for _, partition, _ in letters} == {str(victim.partition)}
    assert len(letters) == POISON
    stale = {p for health in scenario.observer.health if health.at > began for p in health.stale}
    assert not stale, f"partitions {stale} grew stale"
    scenario.prove(f"{len(letters):,} dead letters, no partition stale")
    scenario.finish().assert_clean()


def test_misrouted(new_scenario: NewScenario) -> None:
    """Right events in a wrong partition or topic change nothing."""
    scenario = new_scenario("misrouted records")
    scenario.start(SOUND, SOUND)
    scenario.inject()
    records = [record for root in scenario.traffic.roots for record in misrouted(scenario, root)]
    scenario.produce(*records)
    scenario.until(lambda: len(scenario.dead_letters()) >= len(records), "all are dead letters")
    assert len(scenario.dead_letters()) == len(records)
    scenario.prove(f"{len(records)} dead letters")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def misrouted(scenario: Scenario, root: Root) -> Iterator[Raw]:
    """What would take agents away from the root's jobs, or give them, where it does not count."""
    for event, topic in harmful(scenario, root):
        value, key = poison.as_json(event), root.root.encode()
        for partition in range(PARTITIONS):
            if partition != root.partition:
                yield Raw(topic, value, key, partition)
        for elsewhere in poison.TOPICS:
            if elsewhere != topic:
                yield Raw(elsewhere, value, key, root.partition)


def harmful(scenario: Scenario, root: Root) -> Iterator[tuple[Event, str]]:
    history = scenario.traffic.histories[root.root].events
    for entry in history[-20:]:
        data = entry.event["data"]
        match entry.event["type"]:
            case "job.started":
                yield build.removed("job", data["id"], root=root.root), "job-lifecycle"
            case "agent.set":
                yield build.removed("agent", data["id"], root=root.root), "agent-config"
            case "agent.removed":
                yield build.agent(data["id"], project_of(root), root=root.root), "agent-config"
    yield build.removed("project", project_of(root), root=root.root), "membership"
    yield build.removed("group", int(root.root), root=root.root), "membership"


def project_of(root: Root) -> int:
    return root.projects[0]
