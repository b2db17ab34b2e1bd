"""Disturbed deliveries, poison records and misrouted events."""

import time
from collections.abc import Iterator

from tests import builders
from tests.faults import poison_records
from tests.faults.conftest import SEED, NewScenario
from tests.faults.interleavings import start_jobs_behind_agents
from tests.faults.namespaces import Event, RandomNamespace
from tests.faults.scenario import HEALTHY, RawRecord, Scenario
from tests.integration.deployment import PARTITIONS

POISON = 3000
LATE_PATH = "set-again"
# Shorter than the stall after which the owner reads the records itself.
LATE_S = 1.8
CHUNK = 150
DISTURBED = [("disturb delivery", {"seed": SEED + n, "share": 0.05}) for n in range(2)]
DISTURBED_EVENTS = 1500
GAP = '"event": "gap"'
AGENT_EVENTS = '"type": "agent.'
# Shorter than the grace of unknown tokens, which wait for the agents too.
AGENTS_LATE_S = 0.4
HELD_AGENTS = ("hold delivery", {"text": AGENT_EVENTS, "seconds": AGENTS_LATE_S})


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
    """Thousands of bad records become dead letters, and no partition grows stale."""
    scenario = new_scenario("poison in one partition")
    scenario.start(HEALTHY, HEALTHY)
    victim = scenario.traffic.namespaces[0]
    scenario.begin_fault()
    began = time.monotonic()
    records = list(poison_records.records(victim.root, victim.partition, POISON, SEED))
    for first in range(0, POISON, CHUNK):
        scenario.produce(*records[first : first + CHUNK])
        # The next chunk waits for the dead letters: this is not a test of throughput.
        scenario.until_letters(first + CHUNK)
    letters = scenario.dead_letters(POISON)
    assert {letter.partition for letter in letters} == {victim.partition}
    assert len(letters) == POISON
    stale = {p for health in scenario.observer.health if health.at > began for p in health.stale}
    assert not stale, f"partitions {stale} grew stale"
    scenario.add_proof(f"{len(letters):,} dead letters, no partition stale")
    scenario.finish().assert_clean()


def test_misrouted(new_scenario: NewScenario) -> None:
    """Valid events in a wrong partition or topic change nothing."""
    scenario = new_scenario("misrouted records")
    scenario.start(HEALTHY, HEALTHY)
    scenario.begin_fault()
    records = [
        record
        for namespace in scenario.traffic.namespaces
        for record in misrouted(scenario, namespace)
    ]
    scenario.produce(*records)
    assert len(scenario.dead_letters(len(records))) == len(records)
    scenario.add_proof(f"{len(records)} dead letters")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def misrouted(scenario: Scenario, namespace: RandomNamespace) -> Iterator[RawRecord]:
    """Yield events that would change the root's answers, in wrong partitions and topics."""
    for event, topic in harmful(scenario, namespace):
        value, key = poison_records.as_json(event), namespace.root.encode()
        for partition in range(PARTITIONS):
            if partition != namespace.partition:
                yield RawRecord(topic, value, key, partition)
        for wrong_topic in poison_records.TOPICS:
            if wrong_topic != topic:
                yield RawRecord(wrong_topic, value, key, namespace.partition)


def harmful(scenario: Scenario, namespace: RandomNamespace) -> Iterator[tuple[Event, str]]:
    history = scenario.traffic.histories[namespace.root].events
    for entry in history[-20:]:
        data = entry.event["data"]
        match entry.event["type"]:
            case "job.started":
                yield builders.removed("job", data["id"], root=namespace.root), "job-lifecycle"
            case "agent.set":
                yield builders.removed("agent", data["id"], root=namespace.root), "agent-config"
            case "agent.removed":
                yield (
                    builders.agent(data["id"], project_of(namespace), root=namespace.root),
                    "agent-config",
                )
    yield builders.removed("project", project_of(namespace), root=namespace.root), "membership"
    yield builders.removed("group", int(namespace.root), root=namespace.root), "membership"


def project_of(namespace: RandomNamespace) -> int:
    return namespace.projects[0]


def test_project_set_again_on_its_way(new_scenario: NewScenario) -> None:
    """A `job.started` is applied before the `project.set` that Kafka had earlier."""
    scenario = new_scenario("project.set late, job.started not")
    scenario.start([("hold delivery", {"text": LATE_PATH, "seconds": LATE_S})])
    scenario.start_scripted()
    scripted = scenario.scripted[0]
    # A later event of the partition would show the late one as a gap, which the owner reads.
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
    assert {lookup.status for lookup in early} - {200}, "no lookup before project.set was applied"
    scenario.add_proof(f"project.set comes {LATE_S} s late")
    scenario.resume_traffic()
    scenario.finish().assert_clean()


def test_agents_late_and_jobs_not(new_scenario: NewScenario) -> None:
    """A job's first answer has all agents that Kafka had acknowledged before its start."""
    scenario = new_scenario("agent-config late, job.started not")
    scenario.start([HELD_AGENTS])
    start_jobs_behind_agents(scenario)
    scenario.finish().assert_clean()
