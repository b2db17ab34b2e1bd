"""Jobs that are fed at once, until every answer is right, and the worker's bytes for each.

The limit is a plain consumer of the same events that SETs what the product wrote.
"""

import time
from collections.abc import Iterator
from typing import Final

import psutil
from tests import builders
from tests.integration.deployment import Deployment

from benchmarks import producing, progress
from benchmarks.company import AGENTS, Company, companies, token
from benchmarks.processes import CpuClock, Servers, once
from benchmarks.rounds import Report, Round, Sample
from benchmarks.sizes import Sizes
from projector.domain import fact_keys, facts
from projector.domain.facts import Fact
from projector.store import schema

PARTITIONS: Final = 4
# Jobs that are fed before: they fill the worker's buffers, so that its growth is that of its jobs.
WARM_UP: Final = 10_000
CHECKED: Final = 200
ONE_AGENT: Final = b'"default_namespace":"default"'


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Feed the jobs to a fresh worker, in each round."""
    rounds = [_round(servers, sizes.jobs) for _ in range(sizes.jobs_rounds)]
    report.figures["jobs"] = rounds
    # With fewer jobs other growth of the process would count as theirs.
    if sizes.grows:
        payload = _payload()
        grown = [r.product.more["worker_bytes"] / sizes.jobs for r in rounds]
        report.figures["worker_job"] = [Round(Sample(each), Sample(payload)) for each in grown]
        report.memory["worker_bytes_per_job"] = max(grown)
        report.memory["payload_bytes_per_job"] = payload


def _round(servers: Servers, jobs: int) -> Round:
    with servers.deployment(PARTITIONS) as deployment, servers.valkey() as other:
        worker = deployment.start("worker").process.pid
        progress.until_fresh(deployment.redis, PARTITIONS, 0)
        fed = companies(PARTITIONS)
        base = [producing.line(company, message) for company in fed for message in company.base()]
        warm_up = min(WARM_UP, jobs)
        _feed(deployment, [*base, *_started(fed, 0, warm_up)])
        lines = list(_started(fed, warm_up, jobs))
        before = psutil.Process(worker).memory_info().rss
        began = time.monotonic()
        with CpuClock(worker) as cpu:
            ended = _feed(deployment, lines)
        grown = psutil.Process(worker).memory_info().rss - before
        _check(deployment, warm_up, jobs)
        product = Sample(
            jobs / (ended - began), cpu.seconds / jobs * 1e6, {"worker_bytes": float(grown)}
        )
        return Round(product, _copied(deployment, other, len(base) + warm_up + jobs))


def _started(fed: list[Company], after: int, jobs: int) -> Iterator[producing.Line]:
    for job in range(after + 1, after + jobs + 1):
        company = fed[job % len(fed)]
        yield producing.line(company, company.started(job))


def _feed(deployment: Deployment, lines: list[producing.Line]) -> float:
    ends = producing.send(deployment.kafka, deployment.prefix, lines)
    return progress.until_applied(deployment.redis, ends)


def _check(deployment: Deployment, after: int, jobs: int) -> None:
    """Raise `RuntimeError` unless jobs from the first to the last may use every agent."""
    checked = [after + 1 + jobs * step // CHECKED for step in range(CHECKED)]
    keys = [schema.record_key(builders.digest(token(job))) for job in checked]
    for job, stored in zip(checked, deployment.redis.mget(keys), strict=True):
        if stored is None or stored.count(ONE_AGENT) != AGENTS:
            raise RuntimeError(f"the answer of job {job} is wrong: {stored!r}")


def _copied(deployment: Deployment, other: int, events: int) -> Sample:
    port = deployment.redis.connection_pool.connection_kwargs["port"]
    seconds, cpu = once(
        "consume_and_set", deployment.kafka, deployment.prefix, PARTITIONS, port, other
    )
    return Sample(events / seconds, cpu / events * 1e6)


def _payload() -> float:
    """Return the bytes of one job's fact: its key and its value in Redis."""
    company = companies(PARTITIONS)[0]
    fact = facts.encode_fact(Fact(0, 0, data=company.job(WARM_UP)))
    return float(len(fact_keys.job_key(str(company.root), WARM_UP)) + len(fact))
