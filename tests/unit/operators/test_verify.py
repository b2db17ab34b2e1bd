"""Every difference between views and facts is found, and none that is only on its way."""

import asyncio
from typing import Any

import pytest

from projector import errors
from projector.clients.redis_servers import RedisServers
from projector.domain.decision import ViewRules
from projector.errors import DifferentRulesError
from projector.operators import snapshot, verify
from projector.operators.verify import Findings, Verifier
from projector.store import schema
from projector.store.partition_store import PartitionStore
from tests import builders
from tests.builders import digest
from tests.unit.operators.stored_views import NINE, agents, found
from tests.unit.operators.worlds import FOREVER, HOME, OwnedPartition


async def test_nothing_is_compared_between_a_claim_and_its_first_stamp(
    owned: OwnedPartition,
) -> None:
    """The former owner's record of a new job looks older than the facts, and is newer."""
    other = PartitionStore(owned.redis, RedisServers(), HOME, "other")
    await other.claim(2, owned.policy.rules)
    await owned.apply(builders.started(10, 123213), checkpoint=False)
    with pytest.raises(errors.SnapshotError, match="does not serve it yet"):
        await found(owned)


async def test_views_that_say_what_the_facts_say_do_not_differ(owned: OwnedPartition) -> None:
    await owned.apply(builders.removed("job", 8))
    findings = await found(owned)
    assert findings == Findings(2, [], [])


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
    monkeypatch.setattr(verify, "MAX_DIFFERENCES", 1)
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
        await verifier.verify(HOME, verify.LiveTokens({HOME: []}, set()))


async def test_a_revocation_whose_checkpoint_is_not_written_yet_is_not_undone(
    owned: OwnedPartition,
) -> None:
    removal = builders.event("member.removed", {"user_id": 1, "project_id": 7})
    await owned.apply(removal, checkpoint=False)
    findings = await found(owned)
    assert findings.differences == []
    assert [each.digest for each in findings.unsettled] == [digest("token-9")]
    assert await agents(owned) == []
