"""Latency of revocations, without faults and during rebalances."""

import asyncio
from typing import Final

import pytest

from tests.faults.conftest import NewScenario
from tests.faults.namespaces import ScriptedNamespace
from tests.faults.observer import Connection
from tests.faults.report import Latency, Report
from tests.faults.scenario import HEALTHY, SEND_S, Scenario
from tests.integration.servers import Server

pytestmark = pytest.mark.alone

SAMPLES: Final = 200
REBALANCES: Final = 3
LOOK_INTERVAL_S: Final = 0.004


class RevocationTimer:
    """Revokes and grants every scripted job's agent until `end`, and times each revocation."""

    def __init__(self, scenario: Scenario) -> None:
        self._traffic = scenario.traffic
        self._observer = scenario.observer
        self._background = scenario.background
        self._ending = False
        self.samples: list[float] = []
        self._tasks = [self._background.start(self._time(each)) for each in scenario.scripted]

    def end(self) -> None:
        """Take no more samples; return when every agent has been granted again."""
        self._ending = True
        for task in self._tasks:
            self._background.wait(task, SEND_S)

    async def _time(self, scripted: ScriptedNamespace) -> None:
        connection = self._observer.new_connection()
        try:
            while not self._ending:
                revoked = await self._traffic.send(scripted.revoked())
                self.samples.append(await self._until(connection, scripted, ()) - revoked.acked)
                await self._traffic.send(scripted.granted())
                await self._until(connection, scripted, (scripted.agent,))
        finally:
            await connection.close()

    async def _until(
        self, connection: Connection, scripted: ScriptedNamespace, agents: tuple[int, ...]
    ) -> float:
        """Look up until the answer has these agents; return its time."""
        while True:
            lookup = await self._observer.look_up(connection, scripted.token)
            if lookup and lookup.status == 200 and lookup.agents == agents:
                return lookup.received
            await asyncio.sleep(LOOK_INTERVAL_S)


def test_rebalance_storm(new_scenario: NewScenario, report: Report) -> None:
    """Replace workers one after another while revocations are timed."""
    scenario = new_scenario("rebalance storm")
    scenario.start(HEALTHY, HEALTHY)
    scenario.start_scripted()
    quiet = RevocationTimer(scenario)
    scenario.until(lambda: len(quiet.samples) >= SAMPLES, f"{SAMPLES} revocations timed")
    quiet.end()
    report.latencies.append(Latency("quiet", quiet.samples))

    scenario.begin_fault()
    before = scenario.claims()
    stormy = RevocationTimer(scenario)
    for leaving in range(REBALANCES):
        replace_worker(scenario, scenario.workers[leaving])
    claims = scenario.claims() - before
    assert claims >= 2 * REBALANCES
    scenario.add_proof(f"{claims} claims")
    scenario.until(lambda: len(stormy.samples) >= SAMPLES, f"{SAMPLES} revocations timed")
    stormy.end()
    report.latencies.append(Latency("during rebalances", stormy.samples))
    scenario.until_fresh()
    scenario.finish().assert_clean()


def replace_worker(scenario: Scenario, leaving: Server) -> None:
    """Start a third worker and stop one: at least two rebalances."""
    joining = scenario.start_worker()
    assert leaving.stop() == 0
    scenario.until(lambda: bool(scenario.owned_by(joining)), "the new worker has a partition")
