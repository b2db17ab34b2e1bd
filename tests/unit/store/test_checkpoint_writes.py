"""One call with views and checkpoint leaves Redis as the calls one after the other do."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.clients.redis_servers import RedisServers
from projector.domain.fact_keys import Key
from projector.domain.views import View, ViewId
from projector.errors import WriteRefusedError
from projector.events.model import Topic
from projector.store import schema
from projector.store.checkpoint_writes import FIELDS_PER_CALL, fits_one_call
from projector.store.partition_store import PartitionStore
from projector.store.portions import BYTES_PER_CALL
from projector.store.schema import Version, ViewRecord
from tests.builders import digest

PARTITION: Final = 3
FAR: Final = 4_000_000_000_000
HASH: Final = schema.partition_key(PARTITION)
FACTS: Final = schema.facts_key(PARTITION)
JOBS: Final = (8, 9)
IDS: Final = (*map(digest, "abc"), *(ViewId(str(job)) for job in JOBS))
NAMES: Final = [Key(f"3/group/{number}") for number in range(3)]

Place = Callable[[Any, str, int], Awaitable[Any]]


def record(partition: int, ahead: int) -> Place:
    """Put a record there whose epoch is so far `ahead` of the owner's."""

    def encoded(epoch: int) -> bytes:
        version = Version(epoch + ahead, 5)
        return ViewRecord(200, partition, version, b"before").encode()

    return lambda redis, key, epoch: redis.set(key, encoded(epoch), pxat=FAR - 1)


PLACED: Final[dict[str, Place]] = {
    "older record": record(PARTITION, -1),
    "newer record": record(PARTITION, 1),
    "foreign record": record(5, -1),
    "newer foreign record": record(5, 1),
    "pointer": lambda redis, key, _: redis.set(key, digest("a"), pxat=FAR - 1),
    "pointer elsewhere": lambda redis, key, _: redis.set(key, digest("z")),
    "malformed": lambda redis, key, _: redis.set(key, b"200 0003 what is this? It is no record."),
    "hash": lambda redis, key, _: redis.hset(key, "field", "value"),
}
DAMAGE: Final[dict[str, Callable[[Any], Awaitable[Any]]]] = {
    "claimed": lambda redis: redis.hset(HASH, "owner", "another"),
    "emptied": lambda redis: redis.flushall(),
    "older checkpoint": lambda redis: redis.hset(HASH, "revision", 0),
    "facts of another type": lambda redis: redis.set(FACTS, "text"),
}

views = st.builds(
    View,
    id=st.sampled_from(IDS),
    job=st.sampled_from(JOBS),
    status=st.sampled_from([200, 401, 403]),
    body=st.sampled_from([b"", b"{}"]),
    expires_at=st.sampled_from([FAR, -1]),
    is_current=st.booleans(),
).map(lambda view: view if len(view.id) == 64 else view._replace(job=int(view.id)))
batches = st.lists(views, min_size=1, unique_by=lambda view: view.id)
changed_facts = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([b"new", None]))
stored = st.dictionaries(
    st.sampled_from([*map(schema.record_key, IDS), *map(schema.job_key, JOBS)]),
    st.sampled_from(sorted(PLACED)),
)


class Twice:
    """Two equal servers, each with the same owner that has written a checkpoint."""

    async def prepare(self, places: Mapping[str, str], damage: str | None) -> None:
        self.one: Any = fakeredis.FakeAsyncRedis()
        self.two: Any = fakeredis.FakeAsyncRedis()
        self.store = PartitionStore(self.one, RedisServers(), PARTITION, "me")
        self.other = PartitionStore(self.two, RedisServers(), PARTITION, "me")
        await self.store.claim(4)
        await self.store.checkpoint(dict.fromkeys(Topic, 7), {NAMES[0]: b"a", NAMES[1]: b"b"}, 2)
        await self._copy()
        for name in ("_epoch", "_revision"):
            setattr(self.other, name, getattr(self.store, name))
        for redis in (self.one, self.two):
            for key, name in places.items():
                await PLACED[name](redis, key, self.store.version.epoch)
            if damage:
                await DAMAGE[damage](redis)

    async def _copy(self) -> None:
        for key in await self.one.keys():
            kind = await self.one.type(key)
            if kind == b"hash":
                await self.two.hset(key, mapping=await self.one.hgetall(key))
            else:
                await self.two.set(key, await self.one.get(key))


async def content(redis: Any) -> dict[bytes, Any]:
    """Return every key with its value and expiry."""
    found = {}
    for key in await redis.keys():
        is_text = await redis.type(key) == b"string"
        value = await (redis.get(key) if is_text else redis.hgetall(key))
        found[key] = (value, await redis.pexpiretime(key))
    return found


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except WriteRefusedError:
        return "refused"


async def one_by_one(store: PartitionStore, batch: list[View], pointers: Any, *rest: Any) -> None:
    await store.write_views(batch, pointers)
    await store.checkpoint(*rest)


@settings(max_examples=200, deadline=None)
@given(
    places=stored,
    damage=st.sampled_from([None, None, None, *DAMAGE]),
    batch=batches,
    pointers=st.sets(st.sampled_from(IDS)),
    facts=changed_facts,
    is_repeated=st.booleans(),
)
def test_one_call_is_all_of_them_or_nothing(**case: Any) -> None:
    asyncio.run(compare(**case))


async def compare(
    places: Mapping[str, str],
    damage: str | None,
    batch: list[View],
    pointers: set[ViewId],
    facts: dict[Key, bytes | None],
    is_repeated: bool,
) -> None:
    it = Twice()
    await it.prepare(places, damage)
    before = await content(it.one)
    rest = (dict.fromkeys(Topic, 9), facts, 5)
    revision = it.store.next_revision()
    done = await outcome(it.store.commit(batch, pointers, revision, *rest))
    if is_repeated:
        it.store._revision = it.other._revision
        assert await outcome(it.store.commit(batch, pointers, revision, *rest)) == done
    if done is not True:
        assert await content(it.one) == before
        # Under the next revision, as the owner does it.
        it.other.next_revision()
    others = await outcome(one_by_one(it.other, batch, pointers, *rest))
    if done == "refused":
        assert others == "refused"
        return
    if not done:
        assert await outcome(one_by_one(it.store, batch, pointers, *rest)) == others
    assert await content(it.one) == await content(it.two)
    assert it.store.version == it.other.version
    assert it.store.is_ahead == it.other.is_ahead


async def test_a_call_that_comes_late_changes_nothing() -> None:
    """Behind a later checkpoint, and behind later views whose checkpoint is still to come."""
    it = Twice()
    await it.prepare({}, None)
    late = View(IDS[0], 9, 200, b"late", FAR)
    rest = (dict.fromkeys(Topic, 9), {NAMES[0]: b"late"}, 2)
    revision = it.store.next_revision()
    for after in (
        lambda: it.other.write_views([late._replace(body=b"new")], IDS),
        lambda: it.other.checkpoint(dict.fromkeys(Topic, 10), {}, 2),
    ):
        it.other._redis = it.one
        it.other._views, it.other._checkpoint = it.store._views, it.store._checkpoint
        it.other._written = max(it.other._written, revision)
        await after()
        before = await content(it.one)
        assert await outcome(it.store.commit([late], IDS, revision, *rest)) in (False, "refused")
        assert await content(it.one) == before


@pytest.mark.parametrize(
    ("body", "number", "fits"),
    [
        (0, FIELDS_PER_CALL, True), (0, FIELDS_PER_CALL + 1, False),
        (BYTES_PER_CALL - 10, 10, True), (BYTES_PER_CALL - 9, 10, False),
    ],
)  # fmt: skip
def test_what_would_block_redis_for_long_goes_in_portions(
    body: int, number: int, *, fits: bool
) -> None:
    view = View(IDS[0], 9, 200, b"x" * body, FAR)
    facts: dict[Key, bytes | None] = {Key(str(n)): b"x" for n in range(number)}
    if body == 0:
        facts = dict.fromkeys(facts)
    assert fits_one_call([view], facts) is fits
