"""One event that changes very many live views, against SETs of the same bytes.

Times are from Kafka's acknowledgement until the checkpoint that follows the last view. Lookups go
on only while `revoked` measures: they would take a core from the other figures.
"""

import time
from typing import Any, Final

from tests.integration.deployment import Deployment

from benchmarks import producing, progress, revoked
from benchmarks.company import Company
from benchmarks.processes import CpuClock, Servers, once
from benchmarks.rounds import Point, Report, Round, Sample
from benchmarks.sizes import Sizes

PROJECTS: Final = 1000
JOBS_AT_ONCE: Final = 20_000
# A user without jobs.
JOBLESS_USER: Final = 100_000


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure a change and a revocation of one agent that all jobs may use."""
    with servers.deployment(1) as deployment, servers.valkey() as other:
        fan_out = FanOut(deployment, other)
        for views in sizes.steps(sizes.fan_out_views):
            fan_out.grow(views)
            is_last = views == sizes.fan_out_views
            measured = fan_out.rounds(sizes.rounds if is_last else sizes.growth_rounds)
            for what, rounds in measured.items():
                if is_last:
                    report.figures[f"fan_out_{what}"] = rounds
                if sizes.grows:
                    points = report.growth.setdefault(f"fan_out_{what}_by_views", [])
                    points.append(Point(views, rounds))
        report.figures["fan_out_revoked"] = fan_out.revocations(sizes.rounds)


class FanOut:
    """A worker with one company, so many live jobs, and an agent shared with all."""

    def __init__(self, deployment: Deployment, other: int) -> None:
        self._deployment = deployment
        self._other = other
        self._company = Company(0, 1, projects=PROJECTS)
        self._jobless = producing.line(self._company, self._company.member(JOBLESS_USER, "guest"))
        self._jobs = 0
        self._changes = 0
        self._worker = deployment.start("worker").process.pid
        progress.until_fresh(deployment.redis, 1, 0)
        self._feed(self._company.base())

    def grow(self, views: int) -> None:
        """Start jobs until so many are live."""
        for start in range(self._jobs, views, JOBS_AT_ONCE):
            jobs = range(start, min(start + JOBS_AT_ONCE, views))
            self._feed(self._company.started(job + 1) for job in jobs)
        self._jobs = views
        progress.until_delivered(
            self._deployment.redis,
            lambda: producing.send(
                self._deployment.kafka, self._deployment.prefix, [self._jobless]
            ),
        )

    def rounds(self, rounds: int) -> dict[str, list[Round]]:
        """Share the agent in another namespace and end its sharing, by turns."""
        found: dict[str, list[Round]] = {"change": [], "revocation": []}
        self._timed("")
        self._sets()
        for _ in range(rounds):
            found["change"].append(Round(self._timed(self._next_namespace()), self._sets()))
            found["revocation"].append(Round(self._timed(""), self._sets()))
        return found

    def revocations(self, rounds: int) -> list[Round]:
        """Share the agent and withdraw it, while tokens are looked up."""
        self._deployment.start_api()
        self._deployment.until_fresh()
        plain = producing.create_topic(self._deployment, "plain", 1)
        # Those of the agent's own project, the first, keep it without a grant.
        jobs = [job for job in range(1, self._jobs + 1) if job % PROJECTS]
        watch = revoked.Watch(self._deployment, jobs, self._company.agent_id(0))
        found: list[Round] = []
        for _ in range(rounds):
            self._timed(self._next_namespace())
            product = watch.revoked(self._configured(""))
            found.append(
                Round(
                    product,
                    revoked.one_write(self._deployment.kafka, plain, self._other, self._jobless),
                )
            )
        return found

    def _configured(self, namespace: str) -> producing.Line:
        return producing.line(self._company, self._company.configured(0, namespace))

    def _next_namespace(self) -> str:
        self._changes += 1
        return f"namespace-{self._changes}"

    def _timed(self, namespace: str) -> Sample:
        event = self._configured(namespace)
        with CpuClock(self._worker) as cpu:
            ends = producing.send(self._deployment.kafka, self._deployment.prefix, [event])
            acknowledged = time.monotonic()
            seconds = progress.until_applied(self._deployment.redis, ends) - acknowledged
        return Sample(seconds, cpu.seconds / self._jobs * 1e6)

    def _sets(self) -> Sample:
        port = self._deployment.redis.connection_pool.connection_kwargs["port"]
        seconds, cpu = once("copy_views", port, self._other)
        return Sample(seconds, cpu / self._jobs * 1e6)

    def _feed(self, messages: Any) -> None:
        lines = [producing.line(self._company, message) for message in messages]
        ends = producing.send(self._deployment.kafka, self._deployment.prefix, lines)
        progress.until_applied(self._deployment.redis, ends)
