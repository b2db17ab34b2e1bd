"""Every drift is found and put right, and no repair undoes what an owner writes meanwhile."""

from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from projector import errors
from projector.clients.redis_servers import RedisServers
from projector.domain.projection import Policy, Projection
from projector.errors import DifferentRulesError, PartitionCountError
from projector.events.model import Topic
from projector.operators import snapshot, verify
from projector.operators.verify import Difference, Findings, Verifier
from projector.store import schema, view_diff
from projector.store.partition_store import PartitionStore
from projector.store.schema import Version, ViewRecord
from projector.store.view_diff import Mismatch
from tests import builders
from tests.builders import digest

LEVEL = 30
COMPANY = [
    builders.project(7), builders.member(1, project_id=7), builders.agent(5, 7), builders.agent(6, 7),
    builders.started(9, 7), builders.started(8, 7, 2),
]  # fmt: skip
NINE = schema.token_record_key(digest("token-9"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.05)


class Owned:
    """Partition 0 of two, whose owner writes views and checkpoints."""

    def __init__(self, redis: fakeredis.FakeAsyncRedis, partition: int = 0) -> None:
        self.redis = redis
        self.store = PartitionStore(redis, RedisServers(), partition, "me")
        self.projection = Projection(partition, Policy(1, LEVEL, 1000))
        self.feed = builders.Feed()
        self.next = dict.fromkeys(Topic, 0)

    async def claim(self) -> None:
        await self.store.claim(2, self.projection._policy.rules)

    async def apply(self, *messages: dict[str, Any], checkpoint: bool = True) -> None:
        for message in messages:
            record = self.feed(message)
            assert self.projection.apply(record) is None
            self.next[record.topic] = record.offset + 1
        changes = self.projection.take_changes(builders.NOW)
        await self.store.write_views(changes.views)
        if checkpoint:
            await self.store.checkpoint(self.next, changes.facts, len(self.projection.facts))
            await self.store.stamp(builders.NOW)

    async def rewrite(self) -> None:
        """As a claim or a heal does."""
        await self.store.write_views(self.projection.all_views(builders.NOW))
        await self.store.checkpoint(self.next, self.projection.fields(), len(self.projection.facts))
        await self.store.stamp(builders.NOW)


@pytest.fixture
async def owned() -> AsyncIterator[Owned]:
    async with fakeredis.FakeAsyncRedis() as redis:
        partition = Owned(redis)
        await partition.claim()
        await partition.apply(*COMPANY)
        yield partition


async def found(owned: Owned, partition: int = 0) -> Findings:
    verifier = Verifier(owned.redis, LEVEL)
    live = await verify.live_tokens(owned.redis, [0, 1])
    return await verifier.verify(partition, live)


async def only(owned: Owned) -> Difference:
    (difference,) = (await found(owned)).differences
    return difference


async def agents(owned: Owned) -> list[int] | None:
    raw: Any = await owned.redis.get(NINE)
    return None if raw is None else list(view_diff.allowed_agents(ViewRecord.decode(raw)))


async def damage(owned: Owned, old: bytes, new: bytes, key: str = NINE) -> None:
    raw: Any = await owned.redis.get(key)
    assert old in raw
    await owned.redis.set(key, raw.replace(old, new), keepttl=True)


async def repaired(owned: Owned) -> bool:
    """Whether everything could be repaired, and a second look agrees."""
    verifier = Verifier(owned.redis, LEVEL)
    differences = (await found(owned)).differences
    outcomes = [await verifier.repair(each) for each in differences]
    return all(outcomes) and not await verifier.again(differences)


async def test_nothing_is_compared_between_a_claim_and_its_first_stamp(owned: Owned) -> None:
    """The former owner's record of a new job looks older than the facts, and is newer."""
    other = PartitionStore(owned.redis, RedisServers(), 0, "other")
    await other.claim(2, owned.projection._policy.rules)
    await owned.apply(builders.started(10, 123213), checkpoint=False)
    with pytest.raises(errors.SnapshotError, match="does not serve it yet"):
        await found(owned)


async def test_views_that_say_what_the_facts_say_do_not_differ(owned: Owned) -> None:
    await owned.apply(builders.removed("job", 8))
    findings = await found(owned)
    assert findings == Findings(2, [], [])


async def _list(owned: Owned) -> None:
    await owned.redis.delete(NINE)
    await owned.redis.rpush(NINE, "x")


DRIFTS: dict[str, tuple[list[Mismatch], bool, Any]] = {
    "gone": ([Mismatch.MISSING], False, lambda o: o.redis.delete(NINE)),
    "more agents": ([Mismatch.BODY], True, lambda o: damage(o, b'"id":6', b'"id":7')),
    "no agents": (
        [Mismatch.BODY], False,
        lambda o: damage(o, b'"allowed_agents":[', b'"allowed_agents":[],"x":['),
    ),
    "another role": ([Mismatch.BODY], True, lambda o: damage(o, b'"developer"', b'"owner"')),
    "refused": ([Mismatch.STATUS], False, lambda o: damage(o, b"200 ", b"503 ")),
    "endless": ([Mismatch.EXPIRY], True, lambda o: o.redis.persist(NINE)),
    "too short": ([Mismatch.EXPIRY], False, lambda o: o.redis.expire(NINE, 60)),
    "garbage": ([Mismatch.UNREADABLE], False, lambda o: o.redis.set(NINE, b"\x1b[31m")),
    "a list": ([Mismatch.UNREADABLE], False, _list),
    "no job key": ([Mismatch.JOB_KEY], False, lambda o: o.redis.delete(schema.job_token_key(9))),
    "wrong job key": ([Mismatch.JOB_KEY], False, lambda o: o.redis.set(schema.job_token_key(9), "x")),
    "another partition": ([Mismatch.FOREIGN], False, lambda o: damage(o, b" 0000 ", b" 0001 ")),
    "no such partition": ([Mismatch.FOREIGN], False, lambda o: damage(o, b" 0000 ", b" 0077 ")),
}  # fmt: skip


@pytest.mark.parametrize("drift", DRIFTS)
async def test_every_drift_is_found_named_and_repaired(owned: Owned, drift: str) -> None:
    what, over_grant, change = DRIFTS[drift]
    other = Owned(owned.redis, 1)
    await other.claim()
    await other.apply(builders.project(70))
    before = (await owned.redis.get(NINE), await owned.redis.pexpiretime(NINE))
    await change(owned)
    difference = await only(owned)
    assert (list(difference.what), difference.grants_more) == (what, over_grant)
    assert difference.job == 9
    assert await repaired(owned)
    assert (await owned.redis.get(NINE), await owned.redis.pexpiretime(NINE)) == before
    assert (await found(owned)).differences == []


async def test_a_live_record_that_no_fact_knows_is_found_and_becomes_a_tombstone(
    owned: Owned,
) -> None:
    raw: Any = await owned.redis.get(NINE)
    orphan = schema.token_record_key(digest("orphan"))
    await owned.redis.set(orphan, raw)
    difference = await only(owned)
    assert (difference.what, difference.grants_more) == ((Mismatch.ORPHAN,), True)
    assert await repaired(owned)
    tombstone: Any = await owned.redis.get(orphan)
    assert ViewRecord.decode(tombstone)._replace(version=Version(0, 0)) == ViewRecord(
        401, 0, Version(0, 0), b""
    )
    assert await owned.redis.pttl(orphan) > 0


async def test_a_live_record_that_outlives_its_token_is_found_and_deleted(owned: Owned) -> None:
    raw: Any = await owned.redis.get(NINE)
    await owned.apply(builders.started(9, 7, expires_at="2026-01-01"))
    assert await owned.redis.get(NINE) is None
    await owned.redis.set(NINE, raw)
    assert (await only(owned)).what == (Mismatch.EXPIRY,)
    assert await repaired(owned)
    assert await owned.redis.get(NINE) is None


async def test_what_is_no_record_and_belongs_to_nobody_is_deleted(owned: Owned) -> None:
    nobodys = digest("nobody")
    await owned.redis.set(schema.token_record_key(nobodys), b"x")
    await owned.redis.set(schema.token_record_key("no digest"), b"x")
    await owned.redis.set(NINE, b"x")
    verifier = Verifier(owned.redis, LEVEL)
    live = await verify.live_tokens(owned.redis, [0])
    await verifier.verify(0, live)
    (difference,) = await verifier.unreadable(live.unreadable)
    assert difference.digest == nobodys
    assert await verifier.repair(difference)
    assert await owned.redis.get(schema.token_record_key(nobodys)) is None
    assert await verifier.again([difference]) == []


async def test_a_token_of_two_partitions_stays_with_the_one_that_has_it(owned: Owned) -> None:
    other = Owned(owned.redis, 1)
    await other.claim()
    await other.apply(builders.project(70), builders.started(90, 70, token="token-9"))
    await damage(owned, b" 0000 ", b" 0001 ")
    difference = await only(owned)
    assert difference.what == (Mismatch.FOREIGN,)
    assert not await Verifier(owned.redis, LEVEL).repair(difference)


# races


async def test_a_revocation_that_races_the_repair_is_not_undone(owned: Owned) -> None:
    await damage(owned, b'"id":6', b'"id":7')
    difference = await only(owned)
    await owned.apply(builders.event("member.removed", {"user_id": 1, "project_id": 7}))
    assert await agents(owned) == []
    assert not await Verifier(owned.redis, LEVEL).repair(difference)
    assert await agents(owned) == []


async def test_a_revocation_whose_checkpoint_is_not_written_yet_is_not_undone(
    owned: Owned,
) -> None:
    removal = builders.event("member.removed", {"user_id": 1, "project_id": 7})
    await owned.apply(removal, checkpoint=False)
    findings = await found(owned)
    assert findings.differences == []
    assert [each.digest for each in findings.unsettled] == [digest("token-9")]
    assert await agents(owned) == []


async def test_what_an_owner_writes_after_the_repair_wins(owned: Owned) -> None:
    await owned.redis.delete(NINE)
    assert await Verifier(owned.redis, LEVEL).repair(await only(owned))
    assert await agents(owned) == [5, 6]
    await owned.apply(builders.event("member.removed", {"user_id": 1, "project_id": 7}))
    assert await agents(owned) == []


async def test_a_repair_loses_to_an_owner_that_has_claimed_meanwhile(owned: Owned) -> None:
    await owned.redis.delete(NINE)
    difference = await only(owned)
    epoch = owned.store.version.epoch
    await owned.claim()
    await owned.rewrite()
    assert not await Verifier(owned.redis, LEVEL).repair(difference)
    raw: Any = await owned.redis.get(NINE)
    assert ViewRecord.decode(raw).version.epoch > epoch


async def test_a_repair_into_a_redis_that_was_emptied_gives_way_to_the_heal(owned: Owned) -> None:
    await owned.redis.delete(NINE)
    difference = await only(owned)
    await owned.redis.flushall()
    assert await Verifier(owned.redis, LEVEL).repair(difference)
    owned.projection.apply(
        owned.feed(builders.event("member.removed", {"user_id": 1, "project_id": 7}))
    )
    await owned.claim()
    await owned.rewrite()
    assert await agents(owned) == []


async def test_a_tombstone_that_expired_meanwhile_does_not_come_back(owned: Owned) -> None:
    await damage(owned, b'"id":6', b'"id":7')
    difference = await only(owned)
    await owned.redis.delete(NINE)
    assert not await Verifier(owned.redis, LEVEL).repair(difference)
    assert await owned.redis.get(NINE) is None


async def test_an_orphan_whose_job_has_started_meanwhile_is_not_ended(owned: Owned) -> None:
    raw: Any = await owned.redis.get(NINE)
    await owned.redis.set(schema.token_record_key(digest("token-10")), raw)
    difference = await only(owned)
    await owned.apply(builders.started(10, 7))
    assert not await Verifier(owned.redis, LEVEL).repair(difference)
    assert (await found(owned)).differences == []


async def test_a_difference_that_settles_is_none(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a membership expires between the facts and the records."""
    read, looks = snapshot.read_snapshot, 0

    async def then_the_owner_goes_on(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        facts = await read(*args)
        if looks == 1:
            await owned.redis.delete(NINE)
        if looks == 2:
            await owned.rewrite()
            facts = await read(*args)
        return facts

    monkeypatch.setattr(snapshot, "read_snapshot", then_the_owner_goes_on)
    assert (await found(owned)).differences == []
    assert looks == 2


async def test_more_differences_than_fit_are_counted(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "MAX_DIFFERENCES", 1)
    await owned.redis.delete(NINE, schema.token_record_key(digest("token-8")))
    findings = await found(owned)
    assert (len(findings.differences), findings.more) == (1, 1)


# what must be right before anything is compared


async def test_a_command_with_another_minimum_role_than_the_workers_is_refused(
    owned: Owned,
) -> None:
    verifier = Verifier(owned.redis, 0)
    with pytest.raises(
        DifferentRulesError, match=r"PROJECTOR_MINIMUM_ROLE.*developer there, none here"
    ):
        await verifier.verify(0, verify.LiveTokens({0: []}, set()))


async def test_a_key_without_a_number_of_partitions_stops_a_repair(owned: Owned) -> None:
    """Only the number shows whether the partition that a foreign record names exists."""
    await damage(owned, b" 0000 ", b" 0001 ")
    difference = await only(owned)
    await owned.redis.set(schema.PARTITIONS_KEY, "x")
    with pytest.raises(PartitionCountError, match="allowed-agents:partitions in Redis is not a"):
        await Verifier(owned.redis, LEVEL).repair(difference)
