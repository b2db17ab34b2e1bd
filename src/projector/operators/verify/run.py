"""A run of `projector verify`: partitions compared, differences repaired, a row for each."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Self

from msgspec import Struct
from redis.asyncio import Redis

from projector.domain.views import ViewId, is_digest
from projector.errors import SnapshotError
from projector.operators.verify.comparison import Findings, LiveRecords, Verifier
from projector.operators.verify.differences import Difference
from projector.operators.verify.repair import ViewRepairer
from projector.store.view_diff import Mismatch


class Outcome(StrEnum):
    """The result for a view whose keys in Redis differ from the facts."""

    FOUND = "found"
    REPAIRED = "repaired"
    NOT_REPAIRED = "not repaired"
    NOT_SETTLED = "not settled"
    # Of `projector rebuild`, which replaces the view.
    CHANGES = "changes"


NOT_COMPARED: Final = "not compared"


class DifferenceRow(Struct, frozen=True, kw_only=True):
    """A view whose keys in Redis differ from the facts. Its JSON is public.

    `token_sha256` is None for the view of a job without a digest, which its signed tokens share.
    `agents_too_many` are allowed by the record alone, `agents_too_few` by the view alone;
    `agents_otherwise` have different entries. `foreign_partition` is the one that the record names,
    if it is another.
    """

    partition: int | None
    job: int | None
    token_sha256: str | None
    differences: list[Mismatch]
    over_grant: bool
    status: int | None
    expected_status: int | None
    agents_too_many: list[int]
    agents_too_few: list[int]
    agents_otherwise: list[int]
    foreign_partition: int | None
    outcome: Outcome

    @classmethod
    def of(cls, difference: Difference, outcome: Outcome) -> Self:
        """Describe the difference."""
        too_many, too_few, others = difference.agents
        record = difference.stored.record
        is_foreign = Mismatch.FOREIGN in difference.mismatches
        return cls(
            partition=difference.partition,
            job=difference.job,
            token_sha256=difference.id if is_digest(difference.id) else None,
            differences=list(difference.mismatches),
            over_grant=difference.grants_more,
            status=record.status if record else None,
            expected_status=int(difference.view.status) if difference.view else None,
            agents_too_many=too_many,
            agents_too_few=too_few,
            agents_otherwise=others,
            foreign_partition=record.partition if record and is_foreign else None,
            outcome=outcome,
        )


class NotComparedRow(Struct, frozen=True, kw_only=True):
    """A partition, or a part of it, that could not be compared. Its JSON is public."""

    partition: int | None
    job: None = None
    token_sha256: None = None
    over_grant: bool = False
    outcome: str = NOT_COMPARED
    error: str


VerifyRow = DifferenceRow | NotComparedRow


class VerifyRun:
    """Verifies partition after partition; repairs what differs if `repair` is set."""

    def __init__(
        self, redis: Redis, verifier: Verifier, live: LiveRecords, *, repair: bool
    ) -> None:
        self._verifier = verifier
        self._repairer = ViewRepairer(redis, verifier)
        self._live = live
        self._is_repairing = repair
        self.rows: list[VerifyRow] = []
        self.tokens = self.live = 0

    async def verify(self, partition: int) -> None:
        """Compare the partition's views; add a row for each difference."""
        try:
            findings = await self._verifier.verify(partition, self._live)
        except SnapshotError as error:
            self._add_not_compared(partition, error)
            return
        self.tokens += findings.tokens
        self.live += findings.live
        await self._add_rows(findings, partition)

    async def verify_unclaimed(self) -> None:
        """Add the keys that no facts name; needs all partitions, for the views of their facts."""
        if not any(isinstance(row, NotComparedRow) for row in self.rows):
            await self._add_rows(await self._verifier.unclaimed(self._live.others), None)

    async def _add_rows(self, findings: Findings, partition: int | None) -> None:
        """Add a row for each difference, also where a claim has interrupted the repair."""
        differences = findings.differences
        outcomes = {each.id: Outcome.FOUND for each in differences}
        if self._is_repairing and differences:
            outcomes = dict.fromkeys(outcomes, Outcome.NOT_REPAIRED)
            try:
                repaired = await self._repair(differences)
                outcomes |= dict.fromkeys(repaired, Outcome.REPAIRED)
            except SnapshotError as error:
                self._add_not_compared(partition, error)
        self.rows += [DifferenceRow.of(each, outcomes[each.id]) for each in differences]
        self.rows += [DifferenceRow.of(each, Outcome.NOT_SETTLED) for each in findings.unsettled]
        if findings.more:
            self._add_not_compared(partition, f"{findings.more} more tokens seem to differ")

    async def _repair(self, differences: list[Difference]) -> Iterable[ViewId]:
        """Repair, then look again; return the views that do not differ any more."""
        for each in differences:
            await self._repairer.repair(each)
        left = {each.id for each in await self._repairer.again(differences)}
        return {each.id for each in differences} - left

    def _add_not_compared(self, partition: int | None, reason: object) -> None:
        self.rows.append(NotComparedRow(partition=partition, error=str(reason)))
