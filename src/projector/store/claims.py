"""Claims of one partition: taken under a new epoch, and found to be another worker's."""

from collections.abc import Collection, Mapping
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients.redis_batch import Argument, flat
from projector.store import lua_scripts, partition_state, schema
from projector.store.fact_scan import is_malformed
from projector.store.partition_state import PartitionState

# Characters in the log of names that anyone may have written to Redis.
MAX_LOGGED: Final = 500

log = structlog.get_logger()


class Claims:
    """The claims of one worker on one partition.

    Every method raises `RedisError` if Redis does not answer.
    """

    def __init__(self, redis: Redis, partition: int, owner: str) -> None:
        self._redis = redis
        self._partition = partition
        self._owner = owner
        self._hash = schema.partition_key(partition)
        self._script = redis.register_script(lua_scripts.CLAIM)

    async def take(
        self, now: int, refused_by: int, rules: Mapping[str, int], sources: Collection[str]
    ) -> int:
        """Claim the partition at the believed TIME `now`; return the new epoch.

        It is higher than that of the last claim and `refused_by`.
        """
        args: list[Argument] = [self._owner, refused_by, now, *flat(rules.items())]
        args += ["sources", ",".join(sources)]
        epoch, former = await self._script(keys=[self._hash], args=args)
        self._report_other_sources(former, sources)
        return int(epoch)

    def _report_other_sources(self, stored: bytes | None, sources: Collection[str]) -> None:
        """Log that the former owner's stamps waited for other sources than this one's."""
        former = partition_state.decode_sources(stored)
        if former is not None and former != frozenset(sources):
            log.warning("the former owner waited for other sources", partition=self._partition,
                        former=_named(former), now=_named(sources))  # fmt: skip

    async def read_state(self) -> PartitionState | None:
        """Read the state; drop a malformed checkpoint, which would stop every worker."""
        try:
            return await partition_state.read_partition_state(self._redis, self._partition)
        except ValueError as error:
            log.warning("partition state unreadable, reading everything again",
                        partition=self._partition, reason=str(error))  # fmt: skip
            await self._redis.hdel(self._hash, *partition_state.CHECKPOINT)
            return None

    async def is_replaced(self, mine: int) -> bool:
        """Whether another worker's claim has this epoch or a later one; false if it is missing."""
        try:
            epoch, owner = await self._redis.hmget(self._hash, ["epoch", "owner"])
            return int(epoch or 0) >= mine and owner != self._owner.encode()
        except (ResponseError, ValueError) as error:
            if not is_malformed(error):
                raise
            return False


def _named(sources: Collection[str]) -> str:
    return ",".join(sorted(sources))[:MAX_LOGGED] or "none"
