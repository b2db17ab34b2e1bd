"""Every difference is repaired, and no repair undoes what an owner writes meanwhile."""

from typing import Any

import pytest

from projector.domain.decision import ViewRules
from projector.errors import PartitionCountError
from projector.operators.verify import comparison
from projector.operators.verify.comparison import Verifier
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from projector.store.view_diff import Mismatch
from tests import builders
from tests.builders import digest
from tests.unit.operators.verify.stored_views import NINE, agents, damage, found, only, repairer
from tests.unit.operators.worlds import (
    FOREVER,
    HOME,
    LEVEL,
    OTHER,
    OTHER_ROOT,
    OwnedPartition,
)


async def repaired(owned: OwnedPartition) -> bool:
    """Whether everything could be repaired, and a second look agrees."""
    differences = (await found(owned)).differences
    outcomes = [await repairer(owned).repair(each) for each in differences]
    return all(outcomes) and not await repairer(owned).again(differences)


async def _list(owned: OwnedPartition, key: str) -> None:
    await owned.redis.delete(key)
    await owned.redis.rpush(key, "x")


def drifts(key: str) -> dict[str, tuple[list[Mismatch], bool, Any]]:
    """The ways in which a record can differ: their names, whether they over-grant, the change."""
    return {
        "gone": ([Mismatch.MISSING], False, lambda o: o.redis.delete(key)),
        "more agents": ([Mismatch.BODY], True, lambda o: damage(o, b'"id":6', b'"id":7', key)),
        "no agents": (
            [Mismatch.BODY], False,
            lambda o: damage(o, b'"allowed_agents":[', b'"allowed_agents":[],"x":[', key),
        ),
        "another role": (
            [Mismatch.BODY], True, lambda o: damage(o, b'"developer"', b'"owner"', key),
        ),
        "refused": ([Mismatch.STATUS], False, lambda o: damage(o, b"200 ", b"503 ", key)),
        "endless": ([Mismatch.EXPIRY], True, lambda o: o.redis.persist(key)),
        "too short": ([Mismatch.EXPIRY], False, lambda o: o.redis.expire(key, 60)),
        "garbage": ([Mismatch.UNREADABLE], False, lambda o: o.redis.set(key, b"\x1b[31m")),
        "a list": ([Mismatch.UNREADABLE], False, lambda o: _list(o, key)),
        "another partition": (
            [Mismatch.FOREIGN], False, lambda o: damage(o, b" 0001 ", b" 0000 ", key),
        ),
        "no such partition": (
            [Mismatch.FOREIGN], False, lambda o: damage(o, b" 0001 ", b" 0077 ", key),
        ),
    }  # fmt: skip


def held_by(job: int, value: str) -> Any:
    return lambda owned: owned.redis.set(schema.job_key(job), value)


JOB_KEY = [Mismatch.JOB_KEY]
DRIFTS: dict[str, tuple[list[Mismatch], bool, Any]] = {
    **drifts(NINE),
    "no job key": (JOB_KEY, False, lambda o: o.redis.delete(schema.job_key(9))),
    "no digest under the job": (JOB_KEY, False, held_by(9, "x")),
    "an unknown digest under the job": (JOB_KEY, False, held_by(9, digest("x"))),
    "the digest of another job": (JOB_KEY, False, held_by(9, digest("token-8"))),
    "a job key without expiry": (JOB_KEY, False, held_by(9, digest("token-9"))),
}
SIGNED_DRIFTS: dict[str, tuple[list[Mismatch], bool, Any]] = {
    **drifts(schema.job_key(12)),
    "an unknown digest": (JOB_KEY, False, held_by(12, digest("x"))),
    "the digest of a job that may use more": (JOB_KEY, True, held_by(12, digest("token-9"))),
    "the digest of a job that may use less": (JOB_KEY, False, held_by(12, digest("token-8"))),
}


@pytest.mark.parametrize("drift", DRIFTS)
async def test_every_drift_is_found_named_and_repaired(owned: OwnedPartition, drift: str) -> None:
    what, over_grant, change = DRIFTS[drift]
    other = OwnedPartition(owned.redis, OTHER)
    await other.claim()
    await other.apply(builders.project(70, root=OTHER_ROOT))
    before = (await owned.redis.get(NINE), await owned.redis.pexpiretime(NINE))
    await change(owned)
    difference = await only(owned)
    assert (list(difference.mismatches), difference.grants_more) == (what, over_grant)
    assert difference.job == 9
    assert await repaired(owned)
    assert (await owned.redis.get(NINE), await owned.redis.pexpiretime(NINE)) == before
    assert (await found(owned)).differences == []


async def test_a_live_record_that_no_fact_knows_is_found_and_becomes_a_tombstone(
    owned: OwnedPartition,
) -> None:
    raw: Any = await owned.redis.get(NINE)
    orphan = schema.record_key(digest("orphan"))
    await owned.redis.set(orphan, raw)
    difference = await only(owned)
    assert (difference.mismatches, difference.grants_more) == ((Mismatch.ORPHAN,), True)
    assert await repaired(owned)
    tombstone: Any = await owned.redis.get(orphan)
    assert ViewRecord.decode(tombstone)._replace(version=Version(0, 0)) == ViewRecord(
        401, HOME, Version(0, 0), b""
    )
    assert await owned.redis.pttl(orphan) > 0


async def test_a_live_record_that_outlives_its_token_is_found_and_deleted(
    owned: OwnedPartition,
) -> None:
    raw: Any = await owned.redis.get(NINE)
    await owned.apply(builders.started(9, 7, expires_at="2026-01-01"))
    assert await owned.redis.get(NINE) is None
    await owned.redis.set(NINE, raw)
    assert (await only(owned)).mismatches == (Mismatch.EXPIRY,)
    assert await repaired(owned)
    assert await owned.redis.get(NINE) is None


async def test_what_is_no_record_and_belongs_to_nobody_is_deleted(owned: OwnedPartition) -> None:
    nobodys = digest("nobody")
    await owned.redis.set(schema.record_key(nobodys), b"x")
    await owned.redis.set(schema.TOKENS + "no digest", b"x")
    await owned.redis.set(NINE, b"x")
    verifier = Verifier(owned.redis, ViewRules(LEVEL))
    live = await comparison.live_records(owned.redis, [HOME])
    await verifier.verify(HOME, live)
    (difference,) = (await verifier.unclaimed(live.others)).differences
    assert difference.id == nobodys
    assert await repairer(owned).repair(difference)
    assert await owned.redis.get(schema.record_key(nobodys)) is None
    assert await repairer(owned).again([difference]) == []


async def test_a_token_of_two_partitions_stays_with_the_one_that_has_it(
    owned: OwnedPartition,
) -> None:
    other = OwnedPartition(owned.redis, OTHER)
    await other.claim()
    await other.apply(
        builders.project(70, root=OTHER_ROOT),
        builders.started(90, 70, token="token-9", root=OTHER_ROOT, expires_at=FOREVER),
    )
    await damage(owned, b" 0001 ", b" 0000 ")
    difference = await only(owned)
    assert difference.mismatches == (Mismatch.FOREIGN,)
    assert not await repairer(owned).repair(difference)


# races


async def test_a_revocation_that_races_the_repair_is_not_undone(owned: OwnedPartition) -> None:
    await damage(owned, b'"id":6', b'"id":7')
    difference = await only(owned)
    await owned.apply(builders.event("member.removed", {"user_id": 1, "project_id": 7}))
    assert await agents(owned) == []
    assert not await repairer(owned).repair(difference)
    assert await agents(owned) == []


async def test_what_an_owner_writes_after_the_repair_wins(owned: OwnedPartition) -> None:
    await owned.redis.delete(NINE)
    assert await repairer(owned).repair(await only(owned))
    assert await agents(owned) == [5, 6]
    await owned.apply(builders.event("member.removed", {"user_id": 1, "project_id": 7}))
    assert await agents(owned) == []


async def test_a_repair_loses_to_an_owner_that_has_claimed_meanwhile(owned: OwnedPartition) -> None:
    await owned.redis.delete(NINE)
    difference = await only(owned)
    epoch = owned.store.version.epoch
    await owned.claim()
    await owned.rewrite()
    assert not await repairer(owned).repair(difference)
    raw: Any = await owned.redis.get(NINE)
    assert ViewRecord.decode(raw).version.epoch > epoch


async def test_a_repair_into_a_redis_that_was_emptied_gives_way_to_the_heal(
    owned: OwnedPartition,
) -> None:
    await owned.redis.delete(NINE)
    difference = await only(owned)
    await owned.redis.flushall()
    assert await repairer(owned).repair(difference)
    removal = builders.event("member.removed", {"user_id": 1, "project_id": 7})
    owned.projection.apply(builders.record(removal, 99, partition=HOME))
    await owned.claim()
    await owned.rewrite()
    assert await agents(owned) == []


async def test_a_tombstone_that_expired_meanwhile_does_not_come_back(owned: OwnedPartition) -> None:
    await damage(owned, b'"id":6', b'"id":7')
    difference = await only(owned)
    await owned.redis.delete(NINE)
    assert not await repairer(owned).repair(difference)
    assert await owned.redis.get(NINE) is None


async def test_an_orphan_whose_job_has_started_meanwhile_is_not_ended(
    owned: OwnedPartition,
) -> None:
    raw: Any = await owned.redis.get(NINE)
    await owned.redis.set(schema.record_key(digest("token-10")), raw)
    difference = await only(owned)
    await owned.apply(builders.started(10, 7, expires_at=FOREVER))
    assert not await repairer(owned).repair(difference)
    assert (await found(owned)).differences == []


async def test_a_key_without_a_number_of_partitions_stops_a_repair(owned: OwnedPartition) -> None:
    """Only the number shows whether the partition that a foreign record names exists."""
    await damage(owned, b" 0001 ", b" 0000 ")
    difference = await only(owned)
    await owned.redis.set(schema.PARTITIONS_KEY, "x")
    with pytest.raises(PartitionCountError, match="allowed-agents:partitions in Redis is not a"):
        await repairer(owned).repair(difference)


# jobs without a digest

SIGNED = builders.started(12, 7, token=None, expires_at=FOREVER)
TWELVE = schema.job_key(12)


@pytest.fixture
async def signed(owned: OwnedPartition) -> OwnedPartition:
    """The partition with job 12, whose tokens are signed."""
    await owned.apply(SIGNED)
    return owned


@pytest.mark.parametrize("drift", SIGNED_DRIFTS)
async def test_every_drift_under_a_job_id_is_found_named_and_repaired(
    signed: OwnedPartition, drift: str
) -> None:
    what, over_grant, change = SIGNED_DRIFTS[drift]
    other = OwnedPartition(signed.redis, OTHER)
    await other.claim()
    await other.apply(builders.project(70, root=OTHER_ROOT))
    before = (await signed.redis.get(TWELVE), await signed.redis.pexpiretime(TWELVE))
    await change(signed)
    difference = await only(signed)
    assert (list(difference.mismatches), difference.grants_more) == (what, over_grant)
    assert (difference.id, difference.job) == ("12", 12)
    assert await repaired(signed)
    assert (await signed.redis.get(TWELVE), await signed.redis.pexpiretime(TWELVE)) == before
    assert (await found(signed)).differences == []


@pytest.mark.parametrize(("agent", "over_grant"), [(b'"id":6', False), (b'"id":7', True)])
async def test_a_record_that_is_still_there_after_the_job_got_a_digest_is_ended(
    signed: OwnedPartition, agent: bytes, over_grant: bool
) -> None:
    raw: Any = await signed.redis.get(TWELVE)
    await signed.apply(builders.started(12, 7, expires_at=FOREVER))
    pointer = (await signed.redis.get(TWELVE), await signed.redis.pexpiretime(TWELVE))
    assert pointer[0] == digest("token-12").encode()
    await signed.redis.set(TWELVE, raw.replace(b'"id":6', agent), pxat=pointer[1])
    difference = await only(signed)
    assert (difference.mismatches, difference.job) == ((Mismatch.JOB_KEY,), 12)
    assert difference.grants_more == over_grant
    assert await repaired(signed)
    assert (await signed.redis.get(TWELVE), await signed.redis.pexpiretime(TWELVE)) == pointer


async def test_a_record_that_outlives_the_token_of_a_job_that_got_a_digest_is_deleted(
    signed: OwnedPartition,
) -> None:
    raw: Any = await signed.redis.get(TWELVE)
    await signed.apply(builders.started(12, 7, expires_at="2026-01-01"))
    await signed.redis.set(TWELVE, raw)
    difference = await only(signed)
    assert (difference.mismatches, difference.grants_more) == ((Mismatch.JOB_KEY,), True)
    assert await repaired(signed)
    assert await signed.redis.get(TWELVE) is None


async def test_a_live_record_under_the_id_of_an_unknown_job_is_deleted(
    signed: OwnedPartition,
) -> None:
    """A tombstone there would block a job with this id in another partition."""
    await signed.redis.set(schema.job_key(77), await signed.redis.get(TWELVE))
    difference = await only(signed)
    assert (difference.mismatches, difference.grants_more) == ((Mismatch.ORPHAN,), True)
    assert difference.job == 77
    assert await repaired(signed)
    assert not await signed.redis.exists(schema.job_key(77))
    assert (await found(signed)).differences == []


async def test_a_live_record_under_a_job_id_that_outlives_its_job_is_deleted(
    signed: OwnedPartition,
) -> None:
    raw: Any = await signed.redis.get(TWELVE)
    await signed.apply(builders.started(12, 7, token=None, expires_at="2026-01-01"))
    assert await signed.redis.get(TWELVE) is None
    await signed.redis.set(TWELVE, raw)
    assert (await only(signed)).mismatches == (Mismatch.EXPIRY,)
    assert await repaired(signed)
    assert await signed.redis.get(TWELVE) is None


@pytest.mark.parametrize("held", [b"x", digest("token-9").encode()])
async def test_what_an_unknown_job_has_no_right_to_is_deleted(
    signed: OwnedPartition, held: bytes
) -> None:
    await signed.redis.set(schema.job_key(77), held)
    verifier = Verifier(signed.redis, ViewRules(LEVEL))
    live = await comparison.live_records(signed.redis, [HOME])
    await verifier.verify(HOME, live)
    (difference,) = (await verifier.unclaimed(live.others)).differences
    assert (difference.id, difference.job) == ("77", 77)
    assert await repairer(signed).repair(difference)
    assert await signed.redis.get(schema.job_key(77)) is None
    assert await repairer(signed).again([difference]) == []


async def test_a_digest_that_came_meanwhile_is_not_overwritten(signed: OwnedPartition) -> None:
    await damage(signed, b'"id":6', b'"id":7', TWELVE)
    difference = await only(signed)
    await signed.apply(builders.started(12, 7, expires_at=FOREVER))
    assert not await repairer(signed).repair(difference)
    assert await signed.redis.get(TWELVE) == digest("token-12").encode()


async def test_the_end_of_a_job_that_races_the_repair_is_not_undone(signed: OwnedPartition) -> None:
    await damage(signed, b'"id":6', b'"id":7', TWELVE)
    difference = await only(signed)
    await signed.apply(builders.removed("job", 12))
    assert not await repairer(signed).repair(difference)
    ended: Any = await signed.redis.get(TWELVE)
    assert ended.startswith(b"401 ")


async def test_a_job_of_two_partitions_stays_with_the_one_that_has_it(
    signed: OwnedPartition,
) -> None:
    other = OwnedPartition(signed.redis, OTHER)
    await other.claim()
    await other.apply(
        builders.project(70, root=OTHER_ROOT),
        builders.started(12, 70, token=None, root=OTHER_ROOT, expires_at=FOREVER),
    )
    await damage(signed, b" 0001 ", b" 0000 ", TWELVE)
    difference = await only(signed)
    assert difference.mismatches == (Mismatch.FOREIGN,)
    assert not await repairer(signed).repair(difference)
    # Nor does the digest of a job of that id here take its place.
    await signed.apply(builders.started(12, 7, expires_at=FOREVER), views=False)
    (difference,) = [
        d for d in (await found(signed)).differences if Mismatch.JOB_KEY in d.mismatches
    ]
    assert not await repairer(signed).repair(difference)


async def test_the_digest_of_a_job_of_two_partitions_is_left_alone(owned: OwnedPartition) -> None:
    """But not the digest of another job of the other partition."""
    other = OwnedPartition(owned.redis, OTHER)
    await other.claim()
    await other.apply(
        builders.project(70, root=OTHER_ROOT),
        builders.started(9, 70, token="theirs", root=OTHER_ROOT, expires_at=FOREVER),
        builders.started(90, 70, token="another", root=OTHER_ROOT, expires_at=FOREVER),
    )
    await owned.redis.set(schema.job_key(9), digest("theirs"))
    difference = await only(owned)
    assert difference.mismatches == (Mismatch.JOB_KEY,)
    assert not await repairer(owned).repair(difference)
    await owned.redis.set(schema.job_key(9), digest("another"))
    assert await repaired(owned)
    assert await owned.redis.get(schema.job_key(9)) == digest("token-9").encode()


@pytest.fixture
async def shared(owned: OwnedPartition) -> OwnedPartition:
    """The partition with job 91, whose digest is that of a job of another partition."""
    other = OwnedPartition(owned.redis, OTHER)
    await other.claim()
    await other.apply(
        builders.project(70, root=OTHER_ROOT),
        builders.member(1, project_id=70, root=OTHER_ROOT),
        builders.agent(50, 70, root=OTHER_ROOT),
        builders.started(90, 70, token="shared", root=OTHER_ROOT, expires_at=FOREVER),
    )
    await owned.apply(builders.started(91, 7, token="shared", expires_at=FOREVER))
    await owned.redis.delete(schema.job_key(91))
    return owned


@pytest.mark.parametrize("held", ["the digest", "a record from before"])
async def test_an_answer_that_signed_tokens_must_not_get_is_deleted(
    shared: OwnedPartition, held: str
) -> None:
    """The version before wrote such a digest, when no lookup followed it."""
    difference = await only(shared)
    assert (difference.mismatches, difference.grants_more) == ((Mismatch.FOREIGN,), False)
    record = (await shared.redis.get(NINE)).replace(b'"id":9}', b'"id":91}')
    value = digest("shared") if held == "the digest" else record
    await shared.redis.set(schema.job_key(91), value)
    difference = await only(shared)
    assert difference.mismatches == (Mismatch.FOREIGN, Mismatch.JOB_KEY)
    assert (difference.grants_more, difference.job) == (True, 91)
    assert not await repairer(shared).repair(difference)
    assert await shared.redis.get(schema.job_key(91)) is None
    assert (await only(shared)).mismatches == (Mismatch.FOREIGN,)
