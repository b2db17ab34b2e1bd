"""From Kafka's acknowledgement of a revocation to the answer: quiet, and while workers change."""

import asyncio
from typing import Final

from tests.faults.conftest import NewScenario
from tests.faults.model import Crafted
from tests.faults.observer import Line
from tests.faults.report import Latency, Report
from tests.faults.scenario import SEND_S, SOUND, Scenario
from tests.integration.servers import Server

SAMPLES: Final = 200
REBALANCES: Final = 3
LOOK_INTERVAL_S: Final = 0.004


class Stopwatch:
    """Revokes and grants every crafted job's agent, again and again, until told to end."""

    def __init__(self, scenario: Scenario) -> None:
        self._traffic = scenario.traffic
        self._observer = scenario.observer
        self._background = scenario.background
        self._ending = False
        self.samples: list[float] = []
        self._tasks = [self._background.keep(self._time(each)) for each in scenario.crafted]

    def end(self) -> None:
        """Take no more samples; returns when every agent has been granted again."""
        self._ending = True
        for task in self._tasks:
            self._background.join(task, SEND_S)

    async def _time(self, crafted: Crafted) -> None:
        line = self._observer.new_line()
        try:
            while not self._ending:
                revoked = await self._traffic.send(crafted.revoked())
                self.samples.append(await self._until(line, crafted, ()) - revoked.acked)
                await self._traffic.send(crafted.granted())
                await self._until(line, crafted, (crafted.agent,))
        finally:
            await line.close()

    async def _until(self, line: Line, crafted: Crafted, agents: tuple[int, ...]) -> float:
        """When the answer with these agents came."""
        while True:
            look = await self._observer.look(line, crafted.token)
            if look and look.status == 200 and look.agents == agents:
                return look.received
            await asyncio.sleep(LOOK_INTERVAL_S)


def test_rebalance_storm(new_scenario: NewScenario, report: Report) -> None:
    """Workers come and go, one after another; revocations are timed all along."""
    scenario = new_scenario("rebalance storm")
    scenario.start(SOUND, SOUND)
    scenario.craft()
    quiet = Stopwatch(scenario)
    scenario.until(lambda: len(quiet.samples) >= SAMPLES, f"{SAMPLES} revocations timed")
    quiet.end()
    report.latencies.append(Latency("quiet", quiet.samples))

    scenario.inject()
    before = scenario.claims()
    stormy = Stopwatch(scenario)
    for leaving in range(REBALANCES):
        replace_worker(scenario, scenario.workers[leaving])
    claims = scenario.claims() - before
    assert claims >= 2 * REBALANCES
    scenario.prove(f"{claims} claims")
    scenario.until(lambda: len(stormy.samples) >= SAMPLES, f"{SAMPLES} revocations timed")
    stormy.end()
    report.latencies.append(Latency("during rebalances", stormy.samples))
    scenario.until_fresh()
    scenario.finish().assert_clean()


def replace_worker(scenario: Scenario, leaving: Server) -> None:
    """A third worker joins, and one leaves: two rebalances at least."""
    joining = scenario.start_worker()
    assert leaving.stop() == 0
    scenario.until(lambda: bool(scenario.owned_by(joining)), "the new worker has a partition")
