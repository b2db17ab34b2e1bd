"""Every difference is a row, also one whose repair was interrupted."""

from typing import Any

import pytest

from projector.domain.decision import ViewRules
from projector.errors import SnapshotError
from projector.operators.verify import comparison
from projector.operators.verify.comparison import Verifier
from projector.operators.verify.run import DifferenceRow, NotComparedRow, Outcome, VerifyRun
from projector.store import schema
from projector.store.view_diff import Mismatch
from tests.builders import digest
from tests.unit.operators.verify.stored_views import NINE, damage, found
from tests.unit.operators.worlds import HOME, LEVEL, OTHER, OwnedPartition


async def start(owned: OwnedPartition, *, repair: bool = False) -> VerifyRun:
    live = await comparison.live_records(owned.redis, [HOME])
    return VerifyRun(owned.redis, Verifier(owned.redis, ViewRules(LEVEL)), live, repair=repair)


async def test_tokens_are_counted_and_equal_ones_are_no_rows(owned: OwnedPartition) -> None:
    run = await start(owned)
    await run.verify(HOME)
    assert (run.tokens, run.rows) == (2, [])


async def test_without_repair_a_difference_is_found_and_stays(owned: OwnedPartition) -> None:
    await damage(owned, b'"id":6', b'"id":7')
    run = await start(owned)
    await run.verify(HOME)
    (row,) = run.rows
    assert isinstance(row, DifferenceRow)
    assert (row.outcome, row.agents_too_many, row.agents_too_few) == (Outcome.FOUND, [7], [6])
    assert len((await found(owned)).differences) == 1


async def test_a_repair_that_holds_is_repaired(owned: OwnedPartition) -> None:
    await owned.redis.delete(NINE)
    run = await start(owned, repair=True)
    await run.verify(HOME)
    assert [row.outcome for row in run.rows] == [Outcome.REPAIRED]
    assert await owned.redis.get(NINE) is not None


async def test_a_repair_that_the_second_look_does_not_confirm_is_not_repaired(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_nothing(*_: object) -> bool:
        return False

    await owned.redis.delete(NINE)
    run = await start(owned, repair=True)
    monkeypatch.setattr(run._repairer, "repair", write_nothing)
    await run.verify(HOME)
    assert [row.outcome for row in run.rows] == [Outcome.NOT_REPAIRED]


async def test_a_claim_during_the_repair_leaves_rows_and_a_partition_not_compared(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def claimed(*_: object) -> Any:
        raise SnapshotError("a worker has claimed it")

    await owned.redis.delete(NINE)
    run = await start(owned, repair=True)
    monkeypatch.setattr(run._repairer, "again", claimed)
    await run.verify(HOME)
    assert [row.outcome for row in run.rows] == ["not compared", Outcome.NOT_REPAIRED]


async def test_differences_beyond_the_bound_are_a_row_of_their_own(
    owned: OwnedPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MAX_DIFFERENCES", 1)
    await owned.redis.delete(NINE, schema.record_key(digest("token-8")))
    run = await start(owned)
    await run.verify(HOME)
    assert isinstance(run.rows[0], DifferenceRow)
    assert run.rows[1:] == [NotComparedRow(partition=HOME, error="1 more tokens seem to differ")]


async def test_unreadable_records_count_only_if_all_partitions_were_compared(
    owned: OwnedPartition,
) -> None:
    await owned.redis.set(schema.record_key(digest("nobody")), b"x")
    run = await start(owned)
    await run.verify(OTHER)
    assert [row.outcome for row in run.rows] == ["not compared"]
    await run.verify_unclaimed()
    assert len(run.rows) == 1

    run = await start(owned)
    await run.verify(HOME)
    await run.verify_unclaimed()
    (row,) = run.rows
    assert isinstance(row, DifferenceRow)
    assert (row.partition, row.differences) == (None, [Mismatch.UNREADABLE])
