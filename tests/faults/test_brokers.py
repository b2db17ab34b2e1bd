"""Three Kafka brokers: a leader that was deposed and does not know it, leaders moved, an update."""

from projector.events.model import Topic
from tests.faults.brokers import NUMBERS, Brokers
from tests.faults.conftest import NewScenario
from tests.faults.interleavings import revoke_behind_a_deposed_leader
from tests.faults.scenario import HEALTHY


def test_leader_deposed_unawares(new_scenario: NewScenario, brokers: Brokers) -> None:
    """Partitions are fresh again while the split lasts, unless the workers share its wrong side."""
    scenario = new_scenario("Kafka leader deposed unawares", kafka=brokers.address)
    scenario.deployment.env["PROJECTOR_KAFKA"] = brokers.proxied
    scenario.start(HEALTHY)
    deposed = revoke_behind_a_deposed_leader(scenario, brokers)
    scenario.until_fresh()
    for scripted in scenario.scripted:
        scenario.until_agents(scripted, ())
    for number in set(NUMBERS) - {deposed}:
        brokers.all[number].from_workers.freeze()
    for scripted in scenario.scripted:
        scenario.send(scripted.finished(scripted.token))
    scenario.until_stale()
    scenario.run_past_the_bound()
    for number in NUMBERS:
        brokers.all[number].from_workers.thaw()
    scenario.until_fresh()
    brokers.mend()
    scenario.until_fresh()
    assert scenario.logged('"event": "brokers disagree about leaders"') == 1
    scenario.finish().assert_clean()


def test_leaders_moved(new_scenario: NewScenario, brokers: Brokers) -> None:
    scenario = new_scenario("Kafka leaders moved", kafka=brokers.address)
    scenario.start(HEALTHY)
    topics = [scenario.deployment.prefix + topic for topic in Topic]
    leaders = brokers.leaders(NUMBERS[0], topics)
    scenario.begin_fault()
    for number in NUMBERS:
        brokers.put_first(number, leaders)
        scenario.until(lambda number=number: brokers.lead(number, leaders), f"{number} leads")  # type: ignore[misc]
    scenario.add_proof("all logs led by each broker in turn")
    scenario.until_fresh()
    scenario.finish().assert_clean()


def test_brokers_rolled(new_scenario: NewScenario, brokers: Brokers) -> None:
    scenario = new_scenario("Kafka brokers restarted one by one", kafka=brokers.address)
    scenario.start(HEALTHY)
    scenario.begin_fault()
    for number in NUMBERS:
        brokers.roll(number)
        scenario.until_fresh()
    scenario.add_proof(f"{len(NUMBERS)} brokers")
    scenario.finish().assert_clean()
