"""A worker that takes over a partition with a large checkpoint, against reading that checkpoint.

The product's time is from its claim until the partition is fresh. It reads the facts, catches up
with Kafka (nothing here) and writes every live view. One fact in a hundred is a live job, the
others are memberships: a hundred million memberships to a million live tokens.
"""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

import psutil
from tests.integration.deployment import Deployment

from benchmarks import progress
from benchmarks.company import Company, record
from benchmarks.processes import CpuClock, Servers, once
from benchmarks.rounds import Point, Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes
from projector.clients import redis_client, redis_servers
from projector.config.settings import Settings
from projector.domain import fact_keys, facts
from projector.domain.entities import Member
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, Fact
from projector.domain.projection import Policy, Projection
from projector.store import schema
from projector.store.partition_store import PartitionStore

FACTS_PER_JOB: Final = 100
FIELDS_PER_CHECKPOINT: Final = 50_000
DEVELOPER: Final = 30
# Every event has its own offset and time.
BEGAN_MS: Final = 1_790_000_000_000


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Claim all facts and, if the run grows, fewer."""
    with servers.deployment(1) as deployment:
        bare = _claimed(deployment)[2] if sizes.grows else 0
        for number in sizes.steps(sizes.facts):
            is_last = number == sizes.facts
            payload = asyncio.run(_write(deployment.redis_url, number))
            memory: list[int] = []
            rounds = _rounds(deployment, sizes.rounds if is_last else sizes.growth_rounds, memory)
            if sizes.grows:
                report.growth.setdefault("claim_by_facts", []).append(Point(number, rounds))
        report.figures["claim"] = rounds
        in_redis = deployment.redis.memory_usage(schema.facts_key(0), samples=1000)
    in_worker = [used - bare for used in memory] if bare else []
    _note_memory(report, sizes.facts, payload, in_redis, in_worker)


def _note_memory(
    report: Report, count: int, payload: int, in_redis: int, in_worker: list[int]
) -> None:
    def each(found: int) -> Round:
        return Round(Sample(found / count), Sample(payload / count))

    report.figures["redis_fact"] = [each(in_redis)]
    report.memory["payload_bytes_per_fact"] = payload / count
    report.memory["redis_bytes_per_fact"] = in_redis / count
    if in_worker:
        report.figures["worker_fact"] = [each(found) for found in in_worker]
        report.memory["worker_bytes_per_fact"] = max(in_worker) / count


def _rounds(deployment: Deployment, rounds: int, memory: list[int]) -> list[Round]:
    count = deployment.redis.hlen(schema.facts_key(0))

    def claimed() -> Sample:
        seconds, cpu, used = _claimed(deployment)
        memory.append(used)
        return Sample(seconds, cpu / count * 1e6)

    def read() -> Sample:
        seconds, cpu = once("scan_facts", deployment.redis_url)
        return Sample(seconds, cpu / count * 1e6)

    return interleaved(rounds, claimed, read)


def _claimed(deployment: Deployment) -> tuple[float, float, int]:
    """Return the seconds of a claim, the worker's CPU seconds, and its memory afterwards."""
    before = progress.last_epoch(deployment.redis, 1)
    worker = deployment.start("worker")
    progress.until_claimed(deployment.redis, 1, before)
    with CpuClock(worker.process.pid) as cpu:
        seconds = progress.until_fresh(deployment.redis, 1, before)
    used = psutil.Process(worker.process.pid).memory_info().rss
    worker.stop()
    return seconds, cpu.seconds, used


async def _write(url: str, number: int) -> int:
    """Replace the checkpoint by one of so many facts; return its bytes."""
    server = redis_servers.RedisServers()
    redis = redis_client.create_redis(Settings(redis_url=url), server)
    await redis.flushall()
    store = PartitionStore(redis, server, 0, "benchmark")
    await store.claim(1)
    fields, rest, payload = 0, _fields(number), 0
    while chunk := dict(islice(rest, FIELDS_PER_CHECKPOINT)):
        fields += len(chunk)
        payload += sum(len(key) + len(value) for key, value in chunk.items())
        await store.checkpoint({}, chunk, fields)
    await redis.aclose()
    return payload


def _fields(number: int) -> Iterator[tuple[Key, bytes]]:
    """Yield a company with enough jobs and members for so many facts."""
    company = Company(0, 1, projects=1000, users=1000)
    projection = Projection(0, Policy(1, DEVELOPER, 7 * 24 * 3600 * 1000))
    for offset, message in enumerate(company.base()):
        projection.apply(record(message, 0, offset, 0))
    base = projection.fields()
    yield from base.items()
    jobs = number // FACTS_PER_JOB
    root = str(company.root)
    for job in range(1, jobs + 1):
        yield fact_keys.job_key(root, job), facts.encode_fact(Fact(0, 0, data=company.job(job)))
    scope = fact_keys.group_key(root, company.root)
    for user in range(number - jobs - len(base)):
        fact: AnyFact = Fact(len(base) + user, BEGAN_MS + user, data=Member(DEVELOPER))
        yield fact_keys.member_key(scope, 10_000_000 + user, "direct"), facts.encode_fact(fact)
