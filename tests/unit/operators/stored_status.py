"""The states and activities of partitions in a fake Redis, as the status reads them."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import fakeredis

from projector.config.settings import Settings
from projector.events.model import Topic
from projector.operators.status import Ends, KafkaAnswer, read_status
from projector.operators.status_model import KafkaTrouble, Status
from projector.store import activity, schema
from projector.store.activity import MinuteActivity, PartitionActivity

BOUND = 10.0
OWNER = "host-1-abcd"
SETTINGS = Settings(kafka="k:1", redis_url="redis://r:2", max_staleness=BOUND)


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
        await self.redis.hset(schema.facts_key(partition), mapping=dict.fromkeys("abcde", "{}"))

    async def silence(
        self, partition: int, source: str, vouched: float | None, noted_ago: float = 0.1
    ) -> None:
        """Let the partition wait for a source that vouched so many seconds ago; None: never."""
        noted_ms = int((time.time() - noted_ago) * 1000)
        vouched_ms = 0 if vouched is None else int((time.time() - vouched) * 1000)
        key = schema.partition_key(partition)
        await self.redis.hset(key, mapping={"silent": f"{source} {vouched_ms} {noted_ms}"})

    async def publish(
        self, partition: int, *minutes: MinuteActivity, tokens: int = 2,
        sources: Mapping[str, float | None] = MappingProxyType({}), clock_ahead: float = 0.0,
        written_ago: int = 0, epoch: int = 7, unstamped: bool = False, outage: str | None = None,
    ) -> None:  # fmt: skip
        """Publish an activity; of `sources`, seconds from their last heartbeat to the writing."""
        at = int((time.time() - written_ago + clock_ahead) * 1000)
        counted = {n: None if s is None else at - int(s * 1000) for n, s in sources.items()}
        doing = PartitionActivity(
            epoch, OWNER, at, tokens, 5, 0, list(minutes), counted, unstamped, outage
        )
        raw, left = activity.encode_activity(doing), activity.KEPT_S - written_ago
        await self.redis.set(schema.activity_key(partition), raw, ex=left)

    async def read(self, ends: Ends | None = None, trouble: KafkaTrouble | None = None) -> Status:
        return await read_status(self.redis, SETTINGS, KafkaAnswer(ends, trouble))


def ends(partitions: int = 1, end: int = 4, dead_letters: int = 0) -> Ends:
    return Ends(
        {n: dict.fromkeys(Topic, 1) for n in range(partitions)},
        {n: dict.fromkeys(Topic, end) for n in range(partitions)},
        dead_letters,
    )
