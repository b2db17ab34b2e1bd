"""Producers that send in transactions: unknown tokens do not wait, aborted grants never show."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.faults.conftest import SEED, NewScenario
from tests.faults.report import Report
from tests.faults.scenario import HEALTHY, SEND_S, Scenario
from tests.faults.transactions import (
    TransactionalProducer,
    Transactions,
    UnknownTokens,
    look_up_unknown,
)

pytestmark = pytest.mark.alone

MEASURED_S: Final = 6.0
# How much slower a 401 may be beside transactions, as a share and in seconds: two cores are busy.
SLOWER: Final = 1.3
SLACK_S: Final = 0.05


def test_transactions(new_scenario: NewScenario, report: Report) -> None:
    """The end of a transaction takes an offset; unknown tokens must not wait for an event there."""
    scenario = new_scenario("transactions committed and aborted")
    scenario.start(HEALTHY)
    scenario.start_scripted()
    for each in scenario.scripted:
        scenario.send(each.revoked())
    for each in scenario.scripted:
        scenario.until_agents(each, ())
    # A later event of the partition would show the end of a transaction as a gap.
    scenario.pause_traffic()
    quiet = unknown_tokens(scenario, "quiet")
    scenario.begin_fault()
    with transactional_producer(scenario) as producer:
        transactions = Transactions(producer, scenario.scripted, SEED)
        sending = scenario.background.start(transactions.run())
        beside = unknown_tokens(scenario, "beside transactions")
        sending.get_loop().call_soon_threadsafe(sending.cancel)
    scenario.resume_traffic()
    report.latencies += [quiet, beside]
    assert transactions.committed > 2
    assert transactions.aborted > 1
    scenario.add_proof(
        f"{transactions.committed} committed, {transactions.aborted} aborted; refused "
        f"{beside.share_refused:.0%} (quiet {quiet.share_refused:.0%}), 401 after "
        f"{beside.p50 * 1000:.0f} ms (quiet {quiet.p50 * 1000:.0f} ms)"
    )
    assert beside.share_refused <= quiet.share_refused + 0.01
    assert beside.p50 <= quiet.p50 * SLOWER + SLACK_S
    scenario.finish().assert_clean()


def test_open_transaction(new_scenario: NewScenario) -> None:
    """What is acknowledged behind an open transaction cannot be read: 503, never an old answer."""
    scenario = new_scenario("a transaction open beyond the bound")
    scenario.start(HEALTHY)
    scenario.start_scripted()
    victim = scenario.scripted_in(1)
    scenario.traffic.broadcasts = False
    with transactional_producer(scenario) as producer:
        scenario.begin_fault()
        scenario.background.run(producer.begin([victim.foundation()[0]]), SEND_S)
        began = len(scenario.observer.health)
        scenario.send(victim.revoked())
        scenario.run_past_the_bound()
        stale = {p for health in scenario.observer.health[began:] for p in health.stale}
        assert stale == {victim.partition}
        assert scenario.logged("an open transaction holds up the partition")
        scenario.add_proof(f"partition {stale} stale, no other")
        scenario.background.run(producer.end(commit=True), SEND_S)
        scenario.until_agents(victim, ())
    scenario.traffic.broadcasts = True
    scenario.until_fresh()
    scenario.finish().assert_clean()


def unknown_tokens(scenario: Scenario, when: str) -> UnknownTokens:
    looking = look_up_unknown(scenario.observer, when, MEASURED_S)
    return scenario.background.run(looking, SEND_S)


@contextmanager
def transactional_producer(scenario: Scenario) -> Iterator[TransactionalProducer]:
    async def create() -> TransactionalProducer:
        return TransactionalProducer(scenario.deployment.kafka, scenario.deployment.prefix)

    producer = scenario.background.run(create(), SEND_S)
    scenario.background.run(producer.start(), SEND_S)
    try:
        yield producer
    finally:
        scenario.background.run(asyncio.wait_for(producer.stop(), SEND_S), SEND_S)
