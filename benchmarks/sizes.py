"""Sizes of a run: those that the table names, or smaller ones."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """The options of a run; durations in seconds."""

    rounds: int = 5
    growth_rounds: int = 2
    grows: bool = True
    lookup_seconds: float = 2
    tokens: int = 100_000
    many_tokens: int = 1_000_000
    live_events: int = 20_000
    rate: int = 500
    rate_seconds: float = 3
    rebuilt_events: int = 30_000
    fan_out_views: int = 100_000
    facts: int = 1_000_000
    jobs: int = 100_000
    # Each has a worker and topics of its own.
    jobs_rounds: int = 5
    ingest_rounds: int = 5
    ingest_teams: int = 8
    idle_partitions: int = 64
    idle_seconds: float = 5
    gitlab_rows: int = 250_000
    gitlab_many_rows: int = 1_000_000
    gitlab_commits: int = 10_000
    gitlab_changes: int = 50_000
    gitlab_rate: int = 25
    gitlab_rounds: int = 5

    def numbers(self) -> dict[str, float]:
        """Return each option by its name, as the report keeps it."""
        return {name: float(size) for name, size in self._asdict().items()}

    def steps(self, largest: int) -> list[int]:
        """Return an eighth, a quarter, a half and all of it; only all if the run does not grow."""
        return [largest // 8, largest // 4, largest // 2, largest] if self.grows else [largest]


# Large enough that a claim and a change take longer than the work around them, and a rate at which
# two cores are not full. So the product is measured. Not among many tokens: some seconds make few.
SMOKE = Sizes(
    rounds=2, grows=False, lookup_seconds=1, tokens=5_000, many_tokens=5_000, live_events=4_000,
    rate=125, rate_seconds=2, rebuilt_events=6_000, fan_out_views=20_000, facts=100_000,
    jobs=10_000, jobs_rounds=1, ingest_rounds=1, ingest_teams=1, idle_partitions=16, idle_seconds=2,
    gitlab_rows=20_000, gitlab_many_rows=20_000, gitlab_commits=3_000, gitlab_changes=6_000,
    gitlab_rounds=1,
)  # fmt: skip
