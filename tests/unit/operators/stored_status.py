"""The states and activities of partitions in a fake Redis, as the status reads them."""

import time
from typing import Any

import fakeredis

from projector.events.model import Topic
from projector.operators.status import Ends, Status, read_status
from projector.store import activity, schema
from projector.store.activity import MinuteActivity, PartitionActivity

BOUND = 10.0
OWNER = "host-1-abcd"


class StoredStatus:
    def __init__(self) -> None:
        self.redis = fakeredis.FakeAsyncRedis()

    async def partitions(self, count: object) -> None:
        await self.redis.set(schema.PARTITIONS_KEY, str(count))

    async def stamp(self, partition: int, age: float, **more: Any) -> None:
        fields: dict[str, Any] = {
            "epoch": 7, "owner": OWNER, "revision": 3, "facts": 5, "stamp_epoch": 7,
            "stamp": int((time.time() - age) * 1000), "offset:membership": 4,
        }  # fmt: skip
        await self.redis.hset(schema.partition_key(partition), mapping=fields | more)

    async def publish(self, partition: int, *minutes: MinuteActivity, tokens: int = 2) -> None:
        doing = PartitionActivity(7, OWNER, int(time.time() * 1000), tokens, 5, 0, list(minutes))
        await self.redis.set(schema.activity_key(partition), activity.encode_activity(doing))

    async def read(self, ends: Ends | None = None) -> Status:
        return await read_status(self.redis, BOUND, ends)


def ends(partitions: int = 1, end: int = 4, dead_letters: int = 0) -> Ends:
    return Ends(
        {n: dict.fromkeys(Topic, 1) for n in range(partitions)},
        {n: dict.fromkeys(Topic, end) for n in range(partitions)},
        dead_letters,
    )
