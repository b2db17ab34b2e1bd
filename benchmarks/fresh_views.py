"""Views in Redis that stay fresh without Kafka: a process for one partition.

The product's projection makes them, and its store writes and stamps them. Reads the wanted number
of jobs from standard input, a number a line. Answers with that number once their views are stored.

    python -m benchmarks.fresh_views redis://127.0.0.1:6379/0 PARTITION PARTITIONS [signed]

With `signed` the jobs have no digest.
"""

import asyncio
import sys
from typing import Final

from msgspec import structs
from tests.builders import take_changes

from benchmarks.company import Company, record
from projector.clients import redis_client, redis_servers
from projector.config.settings import Settings
from projector.domain import fact_keys
from projector.domain.facts import Fact
from projector.domain.projection import Policy, Projection
from projector.store.partition_store import PartitionStore

STAMP_INTERVAL_S: Final = 0.25
# Views between two stamps: a chunk must not take long.
JOBS_PER_CHUNK: Final = 2000
DEVELOPER: Final = 30


class FreshPartition:
    """The owner of one partition, reduced to what lookups read."""

    def __init__(self, store: PartitionStore, company: Company, *, signed: bool) -> None:
        policy = Policy(company.partitions, DEVELOPER, 7 * 24 * 3600 * 1000)
        self._projection = Projection(company.partition, policy)
        self._store = store
        self._company = company
        self._signed = signed
        self._jobs = 0

    async def begin(self) -> None:
        """Claim the partition, and apply the events that jobs need."""
        await self._store.claim(self._company.partitions)
        for offset, message in enumerate(self._company.base()):
            if fault := self._projection.apply(record(message, self._company.partition, offset, 0)):
                raise ValueError(fault)
        await self.stamp()

    async def grow(self, jobs: int) -> None:
        """Write views until there are so many; the partition has every n-th job, from 1 on."""
        company = self._company
        numbers = range(self._jobs, jobs)
        for start in numbers[::JOBS_PER_CHUNK]:
            chunk = range(start, min(start + JOBS_PER_CHUNK, jobs))
            await self._write([n * company.partitions + company.partition + 1 for n in chunk])
            await self.stamp()
        self._jobs = max(self._jobs, jobs)

    async def stamp(self) -> None:
        """Stamp the partition fresh."""
        await self._store.stamp(await self._store.now())

    async def _write(self, jobs: list[int]) -> None:
        """Write their views, and drop the jobs: a million of them would fill the memory."""
        facts = self._projection.facts
        keys = [fact_keys.job_key(str(self._company.root), job) for job in jobs]
        for key, job in zip(keys, jobs, strict=True):
            data = self._company.job(job)
            if self._signed:
                data = structs.replace(data, digest=None)
            facts.put(key, Fact(0, 0, data=data))
        await self._store.write_views(take_changes(self._projection, 0).views)
        for key in keys:
            facts.drop(key)


async def keep_fresh(url: str, company: Company, *, signed: bool) -> None:
    """Answer the lines of standard input until it ends."""
    server = redis_servers.RedisServers()
    redis = redis_client.create_redis(Settings(redis_url=url), server)
    partition = FreshPartition(
        PartitionStore(redis, server, company.partition, f"fresh-views-{company.partition}"),
        company,
        signed=signed,
    )
    await partition.begin()
    line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while True:
        await asyncio.wait({line}, timeout=STAMP_INTERVAL_S)
        if not line.done():
            await partition.stamp()
        elif wanted := line.result():
            await partition.grow(int(wanted))
            sys.stdout.write(wanted)
            sys.stdout.flush()
            line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        else:
            break
    await redis.aclose()


if __name__ == "__main__":
    url, number, partitions, *rest = sys.argv[1:]
    company = Company(int(number), int(partitions))
    asyncio.run(keep_fresh(url, company, signed=rest == ["signed"]))
