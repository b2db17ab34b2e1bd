"""Deliveries that go wrong, and records that should not be there."""

import time
from collections.abc import Iterator

from tests import builders
from tests.faults import poison_records
from tests.faults.conftest import SEED, NewScenario
from tests.faults.namespaces import Event, RandomNamespace
from tests.faults.scenario import HEALTHY, RawRecord, Scenario
from tests.integration.deployment import PARTITIONS

POISON = 3000
LATE_PATH = "set-again"
# Shorter than what the owner takes for a stall.
LATE_S = 1.8
CHUNK = 150
DISTURBED = [("disturb delivery", {"seed": SEED + n, "share": 0.05}) for n in range(2)]
DISTURBED_EVENTS = 1500
GAP = '"event": "gap"'


def test_delivery_disturbed(new_scenario: NewScenario) -> None:
    scenario = new_scenario("5 % dropped, repeated, delayed")
    scenario.start(*([fault] for fault in DISTURBED))
    scenario.begin_fault()
    before = scenario.traffic.count
    scenario.until(lambda: scenario.traffic.count > before + DISTURBED_EVENTS, "more traffic")
    assert scenario.logged(GAP) > 10
    scenario.add_proof(f"{scenario.logged(GAP)} gaps read")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_poison(new_scenario: NewScenario) -> None:
    """Thousands of bad records in one partition: no partition grows stale, all are reported."""
    scenario = new_scenario("poison in one partition")
    scenario.start(HEALTHY, HEALTHY)
    victim = scenario.traffic.roots[0]
    scenario.begin_fault()
    began = time.monotonic()
    records = list(poison_records.records(victim.root, victim.partition, POISON, SEED))
    for first in range(0, POISON, CHUNK):
        scenario.produce(*records[first : first + CHUNK])
        # No faster than it is digested: how fast that is, is another question.
        scenario.until_letters(first + CHUNK)
    letters = scenario.dead_letters(POISON)
    assert {letter.partition for letter in letters} == {victim.partition}
    assert len(letters) == POISON
    stale = {p for health in scenario.observer.health if health.at > began for p in health.stale}
    assert not stale, f"partitions {stale} grew stale"
    scenario.add_proof(f"{len(letters):,} dead letters, no partition stale")
    scenario.finish().assert_clean()


def test_misrouted(new_scenario: NewScenario) -> None:
    """Right events in a wrong partition or topic change nothing."""
    scenario = new_scenario("misrouted records")
    scenario.start(HEALTHY, HEALTHY)
    scenario.begin_fault()
    records = [record for root in scenario.traffic.roots for record in misrouted(scenario, root)]
    scenario.produce(*records)
    assert len(scenario.dead_letters(len(records))) == len(records)
    scenario.add_proof(f"{len(records)} dead letters")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def misrouted(scenario: Scenario, root: RandomNamespace) -> Iterator[RawRecord]:
    """What would take agents away from the root's jobs, or give them, where it does not count."""
    for event, topic in harmful(scenario, root):
        value, key = poison_records.as_json(event), root.root.encode()
        for partition in range(PARTITIONS):
            if partition != root.partition:
                yield RawRecord(topic, value, key, partition)
        for elsewhere in poison_records.TOPICS:
            if elsewhere != topic:
                yield RawRecord(elsewhere, value, key, root.partition)


def harmful(scenario: Scenario, root: RandomNamespace) -> Iterator[tuple[Event, str]]:
    history = scenario.traffic.histories[root.root].events
    for entry in history[-20:]:
        data = entry.event["data"]
        match entry.event["type"]:
            case "job.started":
                yield builders.removed("job", data["id"], root=root.root), "job-lifecycle"
            case "agent.set":
                yield builders.removed("agent", data["id"], root=root.root), "agent-config"
            case "agent.removed":
                yield builders.agent(data["id"], project_of(root), root=root.root), "agent-config"
    yield builders.removed("project", project_of(root), root=root.root), "membership"
    yield builders.removed("group", int(root.root), root=root.root), "membership"


def project_of(root: RandomNamespace) -> int:
    return root.projects[0]


def test_project_set_again_on_its_way(new_scenario: NewScenario) -> None:
    """The topics are not in step: the job's start comes before what its project is set by."""
    scenario = new_scenario("project.set late, job.started not")
    scenario.start([("hold delivery", {"text": LATE_PATH, "seconds": LATE_S})])
    scenario.start_scripted()
    scripted = scenario.scripted[0]
    # What came behind it in its partition would bring the late event with it, as a gap.
    scenario.pause_traffic()
    scenario.send(builders.removed("project", scripted.number, root=scripted.root))
    scenario.until(
        lambda: scenario.deployment.look_up(scripted.token.secret).status == 401, "removed"
    )
    scenario.begin_fault()
    again = builders.project(scripted.number, scripted.number, root=scripted.root)
    scenario.send(again | {"data": again["data"] | {"path": LATE_PATH}})
    second = scripted.another_token()
    scenario.observer.watched = [second]
    scenario.send(scripted.started(second), second)
    scenario.run_for(2 * LATE_S)
    early = [lookup for lookup in scenario.observer.lookups if lookup.token == second]
    assert {lookup.status for lookup in early} - {200}, "nobody asked before project.set came"
    scenario.add_proof(f"project.set comes {LATE_S} s late")
    scenario.resume_traffic()
    scenario.finish().assert_clean()
