"""Events that Faust delivers to one worker, against Faust agents that only acknowledge them."""

import itertools
import time
from collections.abc import Iterator
from typing import Final

from tests.integration.deployment import Deployment
from tests.integration.servers import Server

from benchmarks import producing, progress
from benchmarks.company import Company, Message, companies
from benchmarks.processes import Conversation, CpuClock, Servers
from benchmarks.producing import Line
from benchmarks.rounds import Point, Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes

PARTITIONS: Final = 4
# Of ten events four are starts, four are ends, and two change one user's memberships.
MIX: Final = 10


class Traffic:
    """Endless everyday events, evenly over the partitions: jobs that start and end, members."""

    def __init__(self) -> None:
        self.companies = companies(PARTITIONS)
        self._jobs = itertools.count(1)

    def base(self) -> list[Line]:
        """Return the events with which the companies begin."""
        return [producing.line(c, message) for c in self.companies for message in c.base()]

    def take(self, events: int) -> list[Line]:
        """Return exactly so many next events."""
        return list(itertools.islice(self._lines(), events))

    def _lines(self) -> Iterator[Line]:
        while True:
            for company in self.companies:
                for message in self._messages(company):
                    yield producing.line(company, message)

    def _messages(self, company: Company) -> Iterator[Message]:
        jobs = [next(self._jobs) for _ in range(MIX * 2 // 5)]
        yield from map(company.started, jobs)
        for user in jobs[:2]:
            role = "maintainer" if user % 2 else "developer"
            yield company.member(user % company.users, role)
        yield from map(company.finished, jobs)


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure a worker and an ack agent, each with the same events on its own topics."""
    with (
        servers.deployment(PARTITIONS) as product,
        servers.deployment(PARTITIONS) as other,
        Conversation("ack_agent", servers.kafka, other.prefix, other.folder) as agent,
    ):
        worker = product.start("worker")
        agent.read_line()
        progress.until_fresh(product.redis, PARTITIONS, 0)
        rig = Rig(product, worker, other, agent)
        rig.rounds(1, sizes.live_events // 4)
        for events in sizes.steps(sizes.live_events)[:-1] if sizes.grows else []:
            rounds = rig.rounds(sizes.growth_rounds, events)
            report.growth.setdefault("live_events_by_backlog", []).append(Point(events, rounds))
        report.figures["live_events"] = rig.rounds(sizes.rounds, sizes.live_events)
        if sizes.grows:
            last = Point(sizes.live_events, report.figures["live_events"])
            report.growth["live_events_by_backlog"].append(last)


class Rig:
    """A running worker, a running ack agent, and the traffic for each."""

    def __init__(
        self, product: Deployment, worker: Server, other: Deployment, agent: Conversation
    ) -> None:
        self._product, self._worker = product, worker
        self._other, self._agent = other, agent
        self._traffic = {product.prefix: Traffic(), other.prefix: Traffic()}
        base = self._traffic[product.prefix].base()
        self._through_product(base)
        self._through_agent(base)

    def rounds(self, rounds: int, events: int) -> list[Round]:
        """Measure both with so many events at once."""
        own, others = self._traffic.values()
        return interleaved(
            rounds,
            lambda: self._through_product(own.take(events)),
            lambda: self._through_agent(others.take(events)),
        )

    def _through_product(self, lines: list[Line]) -> Sample:
        began = time.monotonic()
        with CpuClock(self._worker.process.pid) as cpu:
            ends = producing.send(self._product.kafka, self._product.prefix, lines)
            ended = progress.until_applied(self._product.redis, ends)
        return _sample(len(lines), ended - began, cpu)

    def _through_agent(self, lines: list[Line]) -> Sample:
        began = time.monotonic()
        with CpuClock(self._agent.pid) as cpu:
            producing.send(self._other.kafka, self._other.prefix, lines)
            self._agent.send_line(len(lines))
            ended = float(self._agent.read_line())
        return _sample(len(lines), ended - began, cpu)


def _sample(events: int, seconds: float, cpu: CpuClock) -> Sample:
    return Sample(events / seconds, cpu.seconds / events * 1e6)
