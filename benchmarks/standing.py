"""Views that stand in Redis and stay fresh without Kafka: a process for one partition.

The product's own projection makes them and its store writes and stamps them. Standard input says
how many jobs there are to be, a number a line; each is answered with that number once they stand.

    python -m benchmarks.standing redis://127.0.0.1:6379/0 PARTITION PARTITIONS
"""

import asyncio
import sys
from typing import Final

from tests.builders import take_changes

from benchmarks.company import Company, record
from projector.clients import redis_client as connections
from projector.clients import redis_servers
from projector.config.settings import Settings
from projector.domain import fact_keys
from projector.domain.facts import Fact
from projector.domain.projection import Policy, Projection
from projector.store.partition_store import PartitionStore

STAMP_INTERVAL_S: Final = 0.25
# Stamps go between two chunks, so one must not take long.
JOBS_PER_CHUNK: Final = 2000
DEVELOPER: Final = 30


class Standing:
    """The owner of one partition, reduced to what lookups see of it."""

    def __init__(self, store: PartitionStore, company: Company) -> None:
        policy = Policy(company.partitions, DEVELOPER, 7 * 24 * 3600 * 1000)
        self._projection = Projection(company.partition, policy)
        self._store = store
        self._company = company
        self._jobs = 0

    async def begin(self) -> None:
        """Claim the partition, and know what jobs need."""
        await self._store.claim(self._company.partitions)
        for offset, message in enumerate(self._company.base()):
            if fault := self._projection.apply(record(message, self._company.partition, offset, 0)):
                raise ValueError(fault)
        await self.stamp()

    async def grow(self, jobs: int) -> None:
        """Let there be so many views of this partition; it has every n-th job, from 1 on."""
        company = self._company
        numbers = range(self._jobs, jobs)
        for start in numbers[::JOBS_PER_CHUNK]:
            chunk = range(start, min(start + JOBS_PER_CHUNK, jobs))
            await self._write([n * company.partitions + company.partition + 1 for n in chunk])
            await self.stamp()
        self._jobs = max(self._jobs, jobs)

    async def stamp(self) -> None:
        """Declare the partition fresh."""
        await self._store.stamp(await self._store.now())

    async def _write(self, jobs: list[int]) -> None:
        """Write their views, and forget the jobs: a million of them would fill the memory."""
        facts = self._projection.facts
        keys = [fact_keys.job_key(str(self._company.root), job) for job in jobs]
        for key, job in zip(keys, jobs, strict=True):
            facts.put(key, Fact(0, 0, data=self._company.job(job)))
        await self._store.write_views(take_changes(self._projection, 0).views)
        for key in keys:
            facts.drop(key)


async def stand(url: str, company: Company) -> None:
    """Obey standard input until it ends."""
    server = redis_servers.RedisServers()
    redis = connections.create_redis(Settings(redis_url=url), server)
    standing = Standing(
        PartitionStore(redis, server, company.partition, f"standing-{company.partition}"), company
    )
    await standing.begin()
    line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while True:
        await asyncio.wait({line}, timeout=STAMP_INTERVAL_S)
        if not line.done():
            await standing.stamp()
        elif wanted := line.result():
            await standing.grow(int(wanted))
            sys.stdout.write(wanted)
            sys.stdout.flush()
            line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        else:
            break
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(stand(sys.argv[1], Company(int(sys.argv[2]), int(sys.argv[3]))))
