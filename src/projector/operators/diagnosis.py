"""The causes of trouble in a status: what is wrong, since when, what lookups get, what to do.

Pure. `projector status` and the operators' page show the same sentences.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from projector.log import escape_control_chars
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.operators.status_model import (
    Cause,
    KafkaFault,
    PartitionHealth,
    PartitionStatus,
    Severity,
    Status,
    WorkerHealth,
    WorkerStatus,
)

MAX_NAMED: Final = 8
UNANSWERED: Final = (PartitionHealth.STALE, PartitionHealth.UNCLAIMED)
ALL_503: Final = "Lookups get 503."


def causes(status: Status) -> list[Cause]:
    """Find everything that is wrong, the worst first; nothing: all is well."""
    unanswered = {p.partition for p in status.partitions if p.state in UNANSWERED}
    order = list(Severity)

    def badness(cause: Cause) -> tuple[int, int]:
        return order.index(cause.severity), -len(unanswered.intersection(cause.partitions))

    return sorted(_Diagnosis(status).causes(), key=badness)


def redis_cause(reason: str, since: int | None) -> Cause:
    """Describe an outage of Redis, without which there is no status."""
    return Cause(
        "redis-unreachable",
        Severity.OUTAGE,
        "Redis cannot be reached.",
        since,
        ALL_503,
        "Start Redis, or repair the way to it; workers and APIs go on by themselves.",
        "runbook.md#redis-unreachable",
        reason,
    )


class _Diagnosis:
    """Explains each partition that is not fresh by one cause; what is left is its own."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._count = len(status.partitions)
        self._open = {
            p.partition: p for p in status.partitions if p.state is not PartitionHealth.FRESH
        }

    def causes(self) -> Iterator[Cause]:
        """Explain the partitions, the surest causes first, then what touches no partition."""
        yield from self._damage()
        yield from self._silent_sources()
        yield from self._ignored_sources()
        yield from self._other_logs()
        yield from self._no_worker()
        yield from self._kafka()
        yield from self._leaderless()
        yield from self._silent_workers()
        yield from self._rest()
        yield from self._dead_letters()

    # causes

    def _damage(self) -> Iterator[Cause]:
        damaged = [p for p in self._status.partitions if p.damage]
        if not damaged:
            return
        taken = self._take(p.partition for p in damaged)
        named = _numbers([p.partition for p in damaged])
        yield Cause(
            "partition-damaged",
            self._severity(taken) if taken else Severity.NOTICE,
            f"What Redis holds of {_partitions(damaged)} is damaged.",
            _last_fresh(self._status, taken),
            self._lookups(taken),
            "Find out which program wrote to Redis, and read everything from Kafka again: "
            f"`projector rebuild {_options(damaged)}`.",
            "runbook.md#partition-damaged",
            f"partition {named}: {damaged[0].damage}" if len(damaged) == 1 else damaged[0].damage,
            _own(taken),
        )

    def _silent_sources(self) -> Iterator[Cause]:
        for source in self._status.sources:
            if source.state not in (SourceHealth.LATE, SourceHealth.SILENT):
                continue
            taken = self._take(source.waiting)
            never = " since before its workers began" if source.age is None else ""
            yield Cause(
                "source-silent",
                self._severity(taken) if taken else Severity.DEGRADED,
                f"The source {source.source} has been silent{never}.",
                None if source.age is None else self._status.at - round(source.age * 1000),
                self._lookups(taken),
                f"Start the feeder of {source.source}, or read in its log why it sends no "
                "heartbeat.",
                "runbook.md#source-silent",
                partitions=_own(taken),
            )

    def _ignored_sources(self) -> Iterator[Cause]:
        for source in self._status.sources:
            if source.ignored_by:
                yield _ignored(source)
            elif source.state is SourceHealth.UNKNOWN and not self._open:
                yield _unknown(source)

    def _other_logs(self) -> Iterator[Cause]:
        others = [p for p in self._status.partitions if p.other_logs]
        if fresh := [p for p in others if p.state is PartitionHealth.FRESH]:
            yield self._other_topics(f"{_partitions(fresh)} of other topics")
        lost = self._take(p.partition for p in others)
        if lost:
            topics = sorted({topic for p in lost for topic in p.other_logs})
            yield Cause(
                "history-lost",
                self._severity(lost),
                f"The topics of {_partitions(lost)} in Kafka are not those whose events were "
                "applied.",
                _last_fresh(self._status, lost),
                self._lookups(lost),
                "Set PROJECTOR_TOPIC_PREFIX as for the workers. If it is right, a topic was "
                "recreated: restore Kafka's data, or rebuild.",
                "runbook.md#history-lost",
                f"recreated: {', '.join(topics)}",
                _own(lost),
            )

    def _other_topics(self, which: str) -> Cause:
        deployment = self._status.deployment
        prefix = deployment.topic_prefix if deployment else ""
        mine = f"with the prefix `{prefix}`" if prefix else "without a prefix"
        return Cause(
            "other-topics",
            Severity.NOTICE,
            f"The workers of this Redis take their events from other topics than those {mine}.",
            None,
            "Lookups are answered from the workers' topics, not from these.",
            "Set PROJECTOR_TOPIC_PREFIX, PROJECTOR_KAFKA and PROJECTOR_REDIS_URL as for the "
            "workers.",
            "runbook.md#other-topics",
            which,
        )

    def _no_worker(self) -> Iterator[Cause]:
        trouble = self._status.kafka_trouble
        missing = trouble is not None and trouble.fault is KafkaFault.TOPICS_MISSING
        claimed = any(p.state is not PartitionHealth.UNCLAIMED for p in self._status.partitions)
        if claimed:
            if missing and any(p.state is PartitionHealth.FRESH for p in self._status.partitions):
                yield self._other_topics(trouble.reason if trouble else "")
            elif missing:
                yield self._topics_missing()
            return
        if missing:
            yield self._topics_missing()
            return
        taken = self._take(range(self._count))
        yield Cause(
            "no-worker",
            Severity.OUTAGE,
            "No worker has claimed a partition yet.",
            None,
            ALL_503,
            "Start `projector worker`. If one runs, its log has the reason: `not ready` or "
            "`wrong setting`.",
            "runbook.md#no-worker",
            partitions=_own(taken),
        )

    def _topics_missing(self) -> Cause:
        taken = self._take(range(self._count))
        trouble = self._status.kafka_trouble
        return Cause(
            "topics-missing",
            Severity.OUTAGE,
            "Topics are missing in Kafka, and workers wait for them.",
            _last_fresh(self._status, taken),
            ALL_503 if not taken else self._lookups(taken),
            "Set PROJECTOR_TOPIC_PREFIX as for the feeders, or create the topics: "
            "`projector topics`.",
            "runbook.md#topics-missing",
            trouble.reason if trouble else None,
            _own(taken),
        )

    def _kafka(self) -> Iterator[Cause]:
        trouble = self._status.kafka_trouble
        if trouble is None or trouble.fault is KafkaFault.TOPICS_MISSING:
            return
        alive = any(w.state is not WorkerHealth.SILENT for w in self._status.workers)
        taken = [] if alive else self._take(list(self._open))
        severity = self._severity(taken) if taken else Severity.OUTAGE
        what, advice = _KAFKA[trouble.fault]
        name = trouble.fault.value
        if trouble.fault is not KafkaFault.TOPICS_UNUSABLE:
            name = f"kafka-{name}"
        yield Cause(
            name,
            Severity.NOTICE if alive else severity,
            f"{what} from here, but workers go on." if alive else f"{what}.",
            _last_fresh(self._status, taken) or trouble.since,
            "Lookups are answered as the partitions are." if alive else self._lookups(taken),
            advice,
            f"runbook.md#{name}",
            trouble.reason,
            _own(taken),
        )

    def _leaderless(self) -> Iterator[Cause]:
        taken = self._take(n for n, p in self._open.items() if p.leaderless)
        if taken:
            topics = sorted({topic for p in taken for topic in p.leaderless})
            yield Cause(
                "partition-leaderless",
                self._severity(taken),
                f"Kafka has no leader for {' and '.join(topics)} of {_partitions(taken)}.",
                _last_fresh(self._status, taken),
                self._lookups(taken),
                "Start the brokers that are away, or repair them; workers go on by themselves.",
                "runbook.md#partition-leaderless",
                partitions=_own(taken),
            )

    def _silent_workers(self) -> Iterator[Cause]:
        silent = [w for w in self._status.workers if w.state is WorkerHealth.SILENT]
        taken = self._take(n for w in silent for n in w.partitions if n in self._open)
        if not taken:
            return
        all_ = len(silent) == len(self._status.workers)
        yield Cause(
            "workers-gone" if all_ else "worker-gone",
            self._severity(taken),
            f"{_workers(silent, all_)} {'is' if len(silent) == 1 else 'are'} silent.",
            _last_fresh(self._status, taken),
            self._lookups(taken),
            "Start workers; if they run, look into their logs for `outage`." if all_ else
            "Wait for PROJECTOR_SESSION_TIMEOUT: other workers take its partitions. Then restart "
            "it.",
            "runbook.md#workers-gone" if all_ else "runbook.md#worker-gone",
            ", ".join(f"{_name(w)}: {_partition_list(w.partitions)}" for w in silent[:MAX_NAMED]),
            _own(taken),
        )  # fmt: skip

    def _rest(self) -> Iterator[Cause]:
        unclaimed = (n for n, p in self._open.items() if p.state is PartitionHealth.UNCLAIMED)
        if taken := self._take(list(unclaimed)):
            yield Cause(
                "partitions-unclaimed",
                self._severity(taken),
                f"No worker has claimed {_partitions(taken)} yet.",
                None,
                self._lookups(taken),
                "Wait for the worker that starts, or start one; its log has the reason.",
                "runbook.md#partition-unclaimed",
                partitions=_own(taken),
            )
        if taken := self._take(list(self._open)):
            stale = any(p.state is PartitionHealth.STALE for p in taken)
            owners = sorted({escape_control_chars(p.owner or "") for p in taken})
            yield Cause(
                "partitions-stale" if stale else "partitions-late",
                self._severity(taken),
                f"{_partitions(taken).capitalize()} {'is' if len(taken) == 1 else 'are'} behind, "
                "although the worker is there.",
                _last_fresh(self._status, taken),
                self._lookups(taken),
                f"Look into the log of {' and '.join(owners[:2])} for `outage` and `history lost`.",
                f"runbook.md#partition-{'stale' if stale else 'late'}",
                _lag(taken),
                _own(taken),
            )

    def _dead_letters(self) -> Iterator[Cause]:
        if count := self._status.waiting_letters:
            yield Cause(
                "dead-letters",
                Severity.NOTICE,
                f"{_many(count, 'event')} could not be applied and became "
                f"{'a dead letter' if count == 1 else 'dead letters'}.",
                None,
                "Lookups are answered, without what these events were to change.",
                "List them with `projector dead-letters list`, correct and replay them.",
                "runbook.md#dead-letters-arriving",
            )

    # what all have in common

    def _take(self, numbers: Iterable[int]) -> list[PartitionStatus]:
        """Take the partitions that no other cause has explained yet."""
        return [self._open.pop(n) for n in list(numbers) if n in self._open]

    def _severity(self, taken: Collection[PartitionStatus]) -> Severity:
        unanswered = sum(p.state in UNANSWERED for p in taken)
        return Severity.OUTAGE if unanswered == self._count else Severity.DEGRADED

    def _lookups(self, taken: Sequence[PartitionStatus]) -> str:
        """Write what lookups get while these partitions are not fresh."""
        unanswered = [p for p in taken if p.state in UNANSWERED]
        if len(unanswered) == self._count:
            return ALL_503
        if unanswered:
            return (
                f"Lookups of {_partitions(unanswered)} and of unknown tokens get 503; all others "
                "are answered."
            )
        if taken:
            bound = f"{self._status.max_staleness:g} s"
            return f"Lookups are answered until a partition is more than {bound} behind."
        return "Lookups are answered."


_KAFKA: Final = {
    KafkaFault.UNREACHABLE: (
        "Kafka cannot be reached",
        "Start Kafka, or repair the way to it; workers go on by themselves.",
    ),
    KafkaFault.REFUSED: (
        "Kafka refuses this user",
        "Set user, password and certificate as for the workers (docs/security.md).",
    ),
    KafkaFault.TOPICS_UNUSABLE: (
        "The topics in Kafka cannot be used",
        "Do what the reason asks for.",
    ),
}


def _ignored(source: SourceStatus) -> Cause:
    return Cause(
        "source-ignored",
        Severity.DEGRADED,
        f"The workers of {_partition_list(source.ignored_by)} do not wait for the source "
        f"{source.source}.",
        None,
        "Lookups are answered, there without the source's bound on staleness.",
        "Set PROJECTOR_SOURCES alike for all workers, and restart them one at a time.",
        "runbook.md#source-ignored",
    )


def _unknown(source: SourceStatus) -> Cause:
    return Cause(
        "source-unknown",
        Severity.DEGRADED,
        f"No worker has reported on the source {source.source} for seven seconds.",
        None,
        "Lookups are answered.",
        "Run `projector status` again in a few seconds; if this stays, look into the workers' "
        "logs.",
        "runbook.md#source-silent",
    )


def _own(partitions: Iterable[PartitionStatus]) -> list[int]:
    return sorted(p.partition for p in partitions)


def _last_fresh(status: Status, partitions: Iterable[PartitionStatus]) -> int | None:
    """Return when the first of these partitions was last fresh (ms)."""
    ages = [p.age for p in partitions if p.age is not None]
    return status.at - round(max(ages) * 1000) if ages else None


def _lag(partitions: Iterable[PartitionStatus]) -> str | None:
    """Write how many records are not applied, by topic; None if that is not known."""
    lags: Counter[str] = Counter()
    known = [p.lag for p in partitions if p.lag is not None]
    for lag in known:
        lags.update(lag)
    by_topic = ", ".join(f"{topic} {count}" for topic, count in lags.items() if count)
    return f"records of Kafka not applied: {by_topic or 0}" if known else None


def _partitions(partitions: Collection[PartitionStatus]) -> str:
    return _partition_list([p.partition for p in partitions])


def _partition_list(numbers: Collection[int]) -> str:
    return f"partition{'' if len(numbers) == 1 else 's'} {_numbers(numbers)}"


def _options(partitions: Iterable[PartitionStatus]) -> str:
    return " ".join(f"--partition {p.partition}" for p in list(partitions)[:MAX_NAMED])


def _numbers(numbers: Collection[int]) -> str:
    """Write `3`, `3 and 4`, `0-7 and 9`; beyond `MAX_NAMED` runs their number."""
    runs: list[str] = []
    for first, last in number_runs(numbers):
        runs += [f"{first}-{last}"] if last > first + 1 else map(str, range(first, last + 1))
    if len(runs) > MAX_NAMED:
        runs[MAX_NAMED:] = ["others"]
    return " and ".join([", ".join(runs[:-1]), runs[-1]] if len(runs) > 1 else runs)


def number_runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Fold numbers into runs, each with its first and last number."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _workers(workers: Sequence[WorkerStatus], all_: bool) -> str:
    if all_:
        return "The only worker" if len(workers) == 1 else f"All {len(workers)} workers"
    named = [_name(w) for w in workers[:MAX_NAMED]]
    more = [f"{len(workers) - MAX_NAMED} more"] if len(workers) > MAX_NAMED else []
    return f"The worker{'' if len(workers) == 1 else 's'} {' and '.join(named + more)}"


def _name(worker: WorkerStatus) -> str:
    return escape_control_chars(worker.owner)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
