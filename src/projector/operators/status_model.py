"""The status of a deployment as data: partitions, workers, sources, totals, and causes of trouble.

The JSON of `Status` is public; docs/monitoring.md describes it.
"""

from enum import StrEnum

from msgspec import Struct

from projector.events.model import Topic
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.store.activity import ActivityRates


class PartitionHealth(StrEnum):
    """The freshness of a partition; the worst last."""

    FRESH = "fresh"
    LATE = "late"
    STALE = "stale"
    UNCLAIMED = "unclaimed"


class WorkerHealth(StrEnum):
    """The health of a worker; the worst last.

    It works while any of its partitions is fresh. It waits while its partitions wait for a source.
    It is behind while it reports and none is fresh: it catches up, or waits for a server.
    """

    WORKING = "working"
    WAITING = "waiting"
    BEHIND = "behind"
    SILENT = "silent"


class Severity(StrEnum):
    """The severity of a cause, the worst first.

    With an outage all lookups get 503. With a degraded deployment some do, or will soon. A notice
    leaves lookups as they are.
    """

    OUTAGE = "outage"
    DEGRADED = "degraded"
    NOTICE = "notice"


class Cause(Struct, frozen=True):
    """One thing that is wrong; `since` in ms of Redis TIME, None if that is not known.

    `name` is constant. `runbook` is an anchor within docs. `detail` is a technical reason.
    `partitions` are those that are not fresh because of it.
    """

    name: str
    severity: Severity
    what: str
    since: int | None
    lookups: str
    advice: str
    runbook: str
    detail: str | None = None
    partitions: list[int] = []


class Deployment(Struct, frozen=True):
    """The servers and the prefix that a status is about, and the version of this program."""

    redis: str
    kafka: str
    topic_prefix: str
    version: str


class KafkaFault(StrEnum):
    """The kind of reason why Kafka's numbers are missing."""

    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    TOPICS_MISSING = "topics-missing"
    TOPICS_UNUSABLE = "topics-unusable"


class KafkaTrouble(Struct, frozen=True):
    """The reason why Kafka's numbers are missing, a sentence.

    `since` is the time of the last numbers in ms of this machine, None if there were none. For
    `lasted` seconds there has been no number; None: for long.
    """

    fault: KafkaFault
    reason: str
    since: int | None
    lasted: float | None = None


class PartitionStatus(Struct, frozen=True):
    """One partition; values that are not known are None.

    `age` is the time in seconds since it was last fresh, `lag` the number of records that are not
    applied, by topic. `damage` is what cannot be read of it in Redis. `leaderless` are the topics
    without a leader in Kafka, `other_logs` those that are not the logs whose events were applied.
    `outage` is the server that its owner reports to wait for, a colon and the reason, `letters` the
    number of dead letters that it could not send yet.
    """

    partition: int
    state: PartitionHealth
    owner: str | None
    age: float | None
    epoch: int | None
    revision: int | None
    facts: int | None
    live_tokens: int | None
    lag: dict[Topic, int] | None
    rates: ActivityRates | None
    damage: str | None = None
    leaderless: list[Topic] = []
    other_logs: list[Topic] = []
    outage: str | None = None
    letters: int = 0


class WorkerStatus(Struct, frozen=True):
    """A worker that owns partitions; `age` in seconds is that of the freshest."""

    owner: str
    partitions: list[int]
    age: float | None
    state: WorkerHealth = WorkerHealth.WORKING


class StatusTotals(Struct, frozen=True):
    """Sums over all partitions, without the values that are not known."""

    partitions: int
    fresh: int
    late: int
    stale: int
    unclaimed: int
    facts: int
    live_tokens: int
    lag: int | None
    rates: ActivityRates


class Status(Struct, frozen=True):
    """All partitions, workers, sources and totals at the time `at` (ms of Redis TIME).

    `causes` are the things that are wrong, the worst first; none: all is well. Of `dead_letters` so
    many are `replayed`. `kafka` is the reason why Kafka's numbers are missing. `sources` are those
    that workers wait for, the worst first. `refused_writes` is why Redis refuses writes, as far as
    that stops partitions.
    """

    at: int
    max_staleness: float
    partitions: list[PartitionStatus]
    workers: list[WorkerStatus]
    totals: StatusTotals
    dead_letters: int | None
    replayed: int = 0
    kafka: str | None = None
    sources: list[SourceStatus] = []
    causes: list[Cause] = []
    deployment: Deployment | None = None
    kafka_trouble: KafkaTrouble | None = None
    refused_writes: str | None = None

    @property
    def waiting_letters(self) -> int:
        """The number of dead letters that were not replayed, as far as it is known."""
        return max(0, (self.dead_letters or 0) - self.replayed)

    @property
    def is_fresh(self) -> bool:
        """Whether there are partitions, all fresh, and each source is heard and nowhere ignored."""
        heard = all(s.state is SourceHealth.HEARD and not s.ignored_by for s in self.sources)
        return heard and bool(self.partitions) and self.totals.fresh == len(self.partitions)
