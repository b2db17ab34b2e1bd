"""Partitions in a fake Redis, as their owners leave them."""

from typing import Any

import fakeredis

from projector.clients.redis_servers import RedisServers
from projector.domain.projection import Policy, Projection
from projector.events.model import Topic
from projector.events.partitioning import partition_of
from projector.store.partition_store import PartitionStore
from tests import builders

LEVEL = 30
RETENTION = 7 * 24 * 3600 * 1000
PARTITIONS = 2
# Two root namespaces, and their partitions.
ROOT, OTHER_ROOT = builders.ROOT, "5"
HOME, OTHER = (partition_of(root, PARTITIONS) for root in (ROOT, OTHER_ROOT))
assert HOME != OTHER

# User 1 may use agent 5, which project 7 configures; agent 6 is project 8's.
COMPANY = [
    builders.group(3), builders.project(7, 3), builders.member(1, "developer", group_id=3),
    builders.agent(5, 7), builders.agent(6, 8),
]  # fmt: skip
# Redis has the real time: no token expires before this test is out of use.
FOREVER = "2098-01-01T00:00:00Z"
STARTED = builders.started(9, 7, expires_at=FOREVER)


class OwnedPartition:
    """A partition whose owner applies events, and writes views, checkpoints and stamps."""

    def __init__(self, redis: Any, partition: int = HOME) -> None:
        self.redis = redis
        self.number = partition
        self.policy = Policy(PARTITIONS, LEVEL, RETENTION)
        self.store = PartitionStore(redis, RedisServers(), partition, f"me-{partition}")
        self.projection = Projection(partition, self.policy)
        self.next = dict.fromkeys(Topic, 0)
        self._feed = builders.Feed()

    async def claim(self) -> None:
        await self.store.claim(PARTITIONS, self.policy.rules)

    async def apply(
        self, *messages: dict[str, Any], views: bool = True, checkpoint: bool = True
    ) -> None:
        now = await self.store.now()
        for message in messages:
            record = self._feed(message, now)._replace(partition=self.number)
            assert self.projection.apply(record) is None
            self.next[record.topic] = record.offset + 1
        await self.write(views=views, checkpoint=checkpoint)

    async def write(self, *, views: bool = True, checkpoint: bool = True) -> None:
        now = await self.store.now()
        changes = builders.take_changes(self.projection, now)
        if views:
            await self.store.write_views(changes.views)
        if checkpoint:
            await self.store.checkpoint(self.next, changes.facts, len(self.projection.facts))
            await self.store.stamp(now)

    async def rewrite(self) -> None:
        """As a claim or a heal does."""
        now = await self.store.now()
        await self.store.write_views(self.projection.all_views(now))
        await self.store.checkpoint(self.next, self.projection.fields(), len(self.projection.facts))
        await self.store.stamp(now)


class World:
    """All partitions of one Redis, and their owners."""

    def __init__(self, server: fakeredis.FakeServer | None = None) -> None:
        self.redis: Any = fakeredis.FakeAsyncRedis(server=server or fakeredis.FakeServer())
        self.partitions = [OwnedPartition(self.redis, number) for number in range(PARTITIONS)]

    @property
    def home(self) -> OwnedPartition:
        return self.partitions[HOME]

    async def claim(self) -> None:
        for partition in self.partitions:
            await partition.claim()

    async def apply(self, *messages: dict[str, Any]) -> None:
        """Let each owner apply and write its own."""
        for partition in self.partitions:
            own = [m for m in messages if home_of(m) == partition.number]
            await partition.apply(*own)


def home_of(message: dict[str, Any]) -> int:
    return partition_of(message["partitionkey"], PARTITIONS)


async def filled(server: fakeredis.FakeServer | None = None, *more: dict[str, Any]) -> World:
    """The company with job 9, and more."""
    world = World(server)
    await world.claim()
    await world.apply(*COMPANY, STARTED, *more)
    return world
