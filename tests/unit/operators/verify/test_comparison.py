"""Every difference between views and facts is found, and none that is only on its way."""

import asyncio
from typing import Any

import pytest

from projector import errors
from projector.clients.redis_servers import RedisServers
from projector.domain.decision import ViewRules
from projector.domain.views import ViewId
from projector.errors import DifferentRulesError
from projector.events.partitioning import partition_of
from projector.operators import snapshot
from projector.operators.verify import comparison
from projector.operators.verify.comparison import Findings, Verifier
from projector.store import schema
from projector.store.partition_store import PartitionStore
from tests import builders
from tests.builders import digest
from tests.unit.operators.verify.stored_views import NINE, agents, damage, found, only
from tests.unit.operators.worlds import FOREVER, HOME, LEVEL, PARTITIONS, OwnedPartition


async def test_nothing_is_compared_between_a_claim_and_its_first_stamp(
    owned: OwnedPartition,
) -> None:
    """The former owner's record of a new job looks older than the facts, and is newer."""
    other = PartitionStore(owned.redis, RedisServers(), HOME, "other")
    await other.claim(2, owned.policy.rules)
    await owned.apply(builders.started(10, 123213), checkpoint=False)
    with pytest.raises(errors.SnapshotError, match="does not serve it yet"):
        await found(owned)


@pytest.mark.parametrize(
    ("ago", "since"), [(12_000, "for 1[23] s"), (None, "since before the partition's owner began")]
)
async def test_a_stamp_that_waits_for_a_source_is_blamed_on_it(
    owned: OwnedPartition, ago: int | None, since: str
) -> None:
    other = PartitionStore(owned.redis, RedisServers(), HOME, "other")
    await other.claim(2, owned.policy.rules)
    await other.note_silence("gitlab", await other.now() - ago if ago else 0)
    with pytest.raises(errors.SnapshotError, match=f"source gitlab has been silent {since}; ask"):
        await found(owned)


async def test_views_that_say_what_the_facts_say_do_not_differ(owned: OwnedPartition) -> None:
    await owned.apply(builders.removed("job", 8))
    findings = await found(owned)
    assert findings == Findings(2, [], [], live=1)


async def test_a_difference_that_settles_is_none(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
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


async def test_a_first_view_that_its_owner_holds_back_is_not_settled(
    owned: OwnedPartition,
) -> None:
    """A repair would write it from facts that lack what Kafka had before the job."""
    await owned.redis.delete(schema.record_key(digest("token-8")))
    stamp = await owned.redis.hget(schema.partition_key(HOME), "stamp")
    await asyncio.sleep(0.01)
    await owned.apply(builders.started(10, 7, expires_at=FOREVER), views=False)
    await owned.redis.hset(schema.partition_key(HOME), "stamp", stamp)
    findings = await found(owned)
    assert [each.job for each in findings.differences] == [8]
    assert [each.job for each in findings.unsettled] == [10]


async def test_more_differences_than_fit_are_counted(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MAX_DIFFERENCES", 1)
    await owned.redis.delete(NINE, schema.record_key(digest("token-8")))
    findings = await found(owned)
    assert (len(findings.differences), findings.more) == (1, 1)


async def test_a_command_with_another_minimum_role_than_the_workers_is_refused(
    owned: OwnedPartition,
) -> None:
    verifier = Verifier(owned.redis, ViewRules(0))
    with pytest.raises(
        DifferentRulesError, match=r"PROJECTOR_MINIMUM_ROLE.*developer there, none here"
    ):
        await verifier.verify(HOME, comparison.LiveRecords({HOME: []}, set()))


async def test_a_revocation_whose_checkpoint_is_not_written_yet_is_not_undone(
    owned: OwnedPartition,
) -> None:
    removal = builders.event("member.removed", {"user_id": 1, "project_id": 7})
    await owned.apply(removal, checkpoint=False)
    findings = await found(owned)
    assert findings.differences == []
    assert [each.id for each in findings.unsettled] == [digest("token-9")]
    assert await agents(owned) == []


# jobs without a digest

SIGNED = builders.started(12, 7, token=None, expires_at=FOREVER)
# Another root namespace of the same partition.
NEIGHBOUR = next(r for n in range(10, 99) if partition_of(r := str(n), PARTITIONS) == HOME)


async def test_a_job_without_a_digest_is_compared_like_a_token(owned: OwnedPartition) -> None:
    await owned.apply(SIGNED)
    assert await found(owned) == Findings(3, [], [], live=3)
    await owned.apply(builders.removed("job", 12))
    assert await found(owned) == Findings(3, [], [], live=2)
    # The record moves to the digest, and the job's key holds that.
    await owned.apply(builders.started(13, 7, token=None, expires_at=FOREVER))
    await owned.apply(builders.started(13, 7, expires_at=FOREVER))
    assert await found(owned) == Findings(4, [], [], live=3)


async def test_a_job_is_compared_whose_id_another_namespace_has_with_a_digest(
    owned: OwnedPartition,
) -> None:
    """A faulty producer used one job id twice. The key of that id holds the record of one."""
    await owned.apply(SIGNED)
    await owned.apply(builders.started(12, 7, root=NEIGHBOUR, expires_at=FOREVER))
    assert (await found(owned)).differences == []
    await damage(owned, b'"id":5', b'"id":77', schema.job_key(12))
    difference = await only(owned)
    assert (difference.id, difference.grants_more) == ("12", True)


async def test_a_first_view_under_a_job_id_that_is_held_back_is_not_settled(
    owned: OwnedPartition,
) -> None:
    stamp = await owned.redis.hget(schema.partition_key(HOME), "stamp")
    await asyncio.sleep(0.01)
    await owned.apply(SIGNED, views=False)
    await owned.redis.hset(schema.partition_key(HOME), "stamp", stamp)
    findings = await found(owned)
    assert (findings.differences, [each.id for each in findings.unsettled]) == ([], ["12"])


@pytest.mark.parametrize("change", ["job.finished", "digest"])
async def test_a_view_under_a_job_id_that_is_ahead_of_its_checkpoint_is_not_settled(
    owned: OwnedPartition, change: str
) -> None:
    """A repair would undo a revocation, or overwrite a digest that has just come."""
    await owned.apply(SIGNED)
    event = builders.started(12, 7, expires_at=FOREVER)
    if change == "job.finished":
        event = builders.removed("job", 12)
    await owned.apply(event, checkpoint=False)
    findings = await found(owned)
    assert findings.differences == []
    assert "12" in [each.id for each in findings.unsettled]


async def test_a_digest_under_an_unknown_job_counts_only_if_it_leads_to_another_job(
    owned: OwnedPartition,
) -> None:
    for job, held in {90: "token-9", 91: "token-8", 92: "nowhere"}.items():
        await owned.redis.set(schema.job_key(job), digest(held))
    verifier = Verifier(owned.redis, ViewRules(LEVEL))
    live = await comparison.live_records(owned.redis, [HOME])
    await verifier.verify(HOME, live)
    unclaimed = (await verifier.unclaimed(live.others)).differences
    assert {each.job: each.grants_more for each in unclaimed} == {90: True, 91: False}
    # As after a start whose checkpoint is not written yet.
    assert (await verifier.unclaimed([ViewId("9")])).differences == []
    await owned.redis.delete(*map(schema.job_key, (90, 91)))
    assert (await verifier.unclaimed(live.others)).differences == []


async def test_keys_that_no_facts_name_are_counted_beyond_the_bound(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MAX_DIFFERENCES", 1)
    for job in (90, 91, 92):
        await owned.redis.set(schema.job_key(job), "x")
    verifier = Verifier(owned.redis, ViewRules(LEVEL))
    live = await comparison.live_records(owned.redis, [HOME])
    await verifier.verify(HOME, live)
    findings = await verifier.unclaimed(live.others)
    assert (len(findings.differences), findings.more) == (1, 2)


async def test_a_record_of_a_job_that_gets_a_digest_between_two_looks_is_no_orphan(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tombstone in its place would refuse the signed tokens of a job that runs."""
    await owned.redis.set(schema.job_key(12), await owned.redis.get(NINE))
    read, looks = snapshot.read_snapshot, 0

    async def then_the_job_starts(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            await owned.apply(builders.started(12, 7, expires_at=FOREVER))
            await owned.redis.set(schema.job_key(12), await owned.redis.get(NINE))
        return await read(*args)

    monkeypatch.setattr(snapshot, "read_snapshot", then_the_job_starts)
    assert (await found(owned)).differences == []
    monkeypatch.undo()
    assert [each.id for each in (await found(owned)).differences] == [digest("token-12")]
