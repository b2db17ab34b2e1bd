"""The partitions of a status that no cause has explained yet, and what lookups get."""

from collections.abc import Collection, Iterable
from typing import Final

from projector.operators.diagnosis.words import some_partitions
from projector.operators.status_model import PartitionHealth, PartitionStatus, Severity, Status

UNANSWERED: Final = (PartitionHealth.STALE, PartitionHealth.UNCLAIMED)
ALL_503: Final = "Lookups get 503."


class Unexplained:
    """The partitions that are not fresh, of which each cause takes its own.

    `not_fresh` stay all of them. `unanswered` are the numbers of all partitions whose lookups get
    503, whatever the cause.
    """

    def __init__(self, status: Status) -> None:
        self.status = status
        self.not_fresh = [p for p in status.partitions if p.state is not PartitionHealth.FRESH]
        self.open = {p.partition: p for p in self.not_fresh}
        self.unanswered = {p.partition for p in status.partitions if p.state in UNANSWERED}

    @property
    def _is_outage(self) -> bool:
        return len(self.unanswered) == len(self.status.partitions)

    def take(self, numbers: Iterable[int]) -> list[PartitionStatus]:
        """Take the partitions that no other cause has explained yet."""
        return [self.open.pop(n) for n in list(numbers) if n in self.open]

    def severity(self, touched: Collection[PartitionStatus]) -> Severity:
        """Return the severity of a cause of these partitions' trouble.

        Each of several causes of an outage is one, however few partitions it touches.
        """
        touches = bool(touched) or not self.status.partitions
        return Severity.OUTAGE if self._is_outage and touches else Severity.DEGRADED

    def lookups(self, touched: Collection[PartitionStatus]) -> str:
        """Write what lookups get while these partitions are not fresh."""
        if self.severity(touched) is Severity.OUTAGE:
            return ALL_503
        numbers = own_numbers(touched)
        if own := self.unanswered.intersection(numbers):
            answered = "all others are answered"
            if own != self.unanswered:
                answered = "others are answered unless another cause names them"
            return f"Lookups of {some_partitions(own)} and of unknown tokens get 503; {answered}."
        if touched:
            of = f" of {some_partitions(numbers)}" if self.unanswered else ""
            bound = f"{self.status.max_staleness:g} s"
            return f"Lookups{of} are answered until a partition is more than {bound} behind."
        if self.unanswered:
            return "Lookups get 503 only where another cause names them."
        return "Lookups are answered."

    def last_fresh(self, taken: Iterable[PartitionStatus]) -> int | None:
        """Return when the first of these partitions was last fresh (ms)."""
        ages = [p.age for p in taken if p.age is not None]
        return self.status.at - round(max(ages) * 1000) if ages else None


def own_numbers(partitions: Iterable[PartitionStatus]) -> list[int]:
    """Return the numbers of the partitions, sorted."""
    return sorted(p.partition for p in partitions)
