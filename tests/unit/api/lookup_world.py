"""Lookups on a fake Redis, into which tests write what owners would write."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable

from fakeredis import FakeAsyncRedis, FakeServer

from api.freshness import Freshness
from api.lookup import Lookup
from api.lookup_request import LookupRequest
from api.proofs import Proofs
from api.read_batcher import ReadBatcher, Reads
from api.redis_mget import Mget
from api.replies import Reply
from api.tokens.signed_tokens import SignedTokens
from projector.clients import redis_batch
from projector.clients.redis_servers import RedisServers
from projector.store import overlay, schema
from projector.store.schema import Version, ViewRecord

BODY = b'{"allowed_agents": [],  "kept": "byte for byte \xc3\xa9"}'
EPOCH = 1_800_000_000_000
PARTITIONS = 3
PATIENCE_S = 5.0
LONG_GRACE_S = 30.0


class LookupWorld:
    """The read side on a fake Redis. Tests write what owners would write."""

    def __init__(self) -> None:
        self.server = FakeServer()
        # With a timeout, Python 3.11 can lose the cancellation of whoever is sending.
        self.redis = FakeAsyncRedis(server=self.server, socket_timeout=None)
        self.servers = RedisServers()
        self.freshness = Freshness(self.redis, self.servers)
        self.signed: SignedTokens | None = None
        self.lookup = self.with_limits()

    def with_limits(
        self,
        *,
        miss_grace: float = LONG_GRACE_S,
        waiting: int = 100,
        reads: Reads | None = None,
    ) -> Lookup:
        self.lookup = Lookup(
            reads or ReadBatcher(Mget(self.redis).start), self.freshness,
            Proofs(self.freshness, miss_grace=miss_grace, max_waiting=waiting),
            max_staleness=10.0, signed=self.signed,
        )  # fmt: skip
        return self.lookup

    async def put(
        self, token: str, status: int = 200, body: bytes | None = None, *, partition: int = 0,
        epoch: int = EPOCH,
    ) -> None:  # fmt: skip
        if body is None:
            body = b"" if status == 401 else BODY
        record = ViewRecord(status, partition, Version(epoch, 0x1F), body)
        await self.put_raw(token, record.encode())

    async def put_raw(self, token: str, raw: bytes) -> None:
        await self.redis.set(schema.TOKENS + hashlib.sha256(token.encode()).hexdigest(), raw)

    async def hold_back(self, *names: str, partition: int = 0, version: Version) -> None:
        """Hold back the partition's records below this version that name one of these."""
        line = overlay.encode_line(partition, version, names)
        await self.redis.set(schema.OVERLAY, f"{line}\n")

    async def stamp(self, *partitions: int, age: float = 0.0, epoch: int = EPOCH) -> None:
        """Stamp the partitions (all, if none is named) as fresh `age` seconds ago."""
        stamped_ms = await redis_batch.server_time(self.redis, schema.PARTITIONS_KEY) - round(
            age * 1000
        )
        await self.stamp_at(stamped_ms, *(partitions or range(PARTITIONS)), epoch=epoch)

    async def stamp_at(self, stamped_ms: int, *partitions: int, epoch: int = EPOCH) -> None:
        for partition in partitions:
            await self.redis.hset(
                schema.partition_key(partition),
                mapping={"epoch": epoch, "stamp": stamped_ms, "stamp_epoch": epoch},
            )

    async def silence(
        self, partition: int, source: str, seconds: float | None, noted_ago: float = 0.0
    ) -> None:
        """Let the partition wait for a source that has been silent so long; None: always."""
        now = await redis_batch.server_time(self.redis, schema.PARTITIONS_KEY)
        vouched_ms = 0 if seconds is None else now - round(seconds * 1000)
        field = f"{source} {vouched_ms} {now - round(noted_ago * 1000)}"
        await self.redis.hset(schema.partition_key(partition), mapping={"silent": field})

    async def ask(self, token: str = "known", max_age: int | None = None) -> Reply:
        return await self.lookup.answer(LookupRequest(token.encode(), max_age))

    def covers(self, arrival: float) -> bool:
        """Whether every partition was stamped for a time after `arrival`, by a later poll."""
        return self.freshness.covers(self.freshness.poll, arrival, arrival, None, "")

    async def polled(self, times: int = 2) -> None:
        """Wait until what is in Redis now has been read: the second poll from here began later."""
        for _ in range(times):
            await self.freshness.next_poll(PATIENCE_S)


@contextlib.asynccontextmanager
async def owners(world: LookupWorld, *partitions: int) -> AsyncIterator[None]:
    """Owners that keep stamping these partitions."""

    async def keep_stamping() -> None:
        while True:
            await world.stamp(*partitions)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(keep_stamping())
    try:
        yield
    finally:
        task.cancel()


async def soon(answer: Awaitable[Reply]) -> Reply:
    async with asyncio.timeout(PATIENCE_S):
        return await answer


async def still_waits(answer: asyncio.Task[Reply], world: LookupWorld) -> bool:
    await world.polled(3)
    return not answer.done()
