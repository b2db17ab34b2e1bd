"""Causes of trouble that lie in single partitions: their data, their topics, their owner."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from projector.log import escape_control_chars
from projector.operators.diagnosis.servers import other_topics
from projector.operators.diagnosis.unexplained import Unexplained, own_numbers
from projector.operators.diagnosis.words import some_partitions
from projector.operators.status_model import Cause, PartitionHealth, PartitionStatus, Severity

MAX_OPTIONS: Final = 8


def damage(left: Unexplained) -> Iterator[Cause]:
    """Explain partitions that cannot be read, or of which facts are missing."""
    damaged = [p for p in left.status.partitions if p.damage]
    if not damaged:
        return
    taken = left.take(p.partition for p in damaged)
    named, first = some_partitions(own_numbers(damaged)), damaged[0].damage
    yield Cause(
        "partition-damaged",
        left.severity(taken) if taken else Severity.NOTICE,
        f"What Redis holds of {named} is damaged.",
        left.last_fresh(taken),
        left.lookups(taken),
        "Find out which program wrote to Redis, and read everything from Kafka again: "
        f"`projector rebuild {_options(damaged)}`.",
        "runbook.md#partition-damaged",
        f"{named}: {first}" if len(damaged) == 1 else first,
        own_numbers(taken),
    )


def other_logs(left: Unexplained) -> Iterator[Cause]:
    """Explain partitions whose topics in Kafka are not those that were applied."""
    others = [p for p in left.status.partitions if p.other_logs]
    if fresh := [p for p in others if p.state is PartitionHealth.FRESH]:
        yield other_topics(left.status, f"{some_partitions(own_numbers(fresh))} of other topics")
    lost = left.take(p.partition for p in others)
    if lost:
        topics = sorted({topic for p in lost for topic in p.other_logs})
        yield Cause(
            "history-lost",
            left.severity(lost),
            f"The topics of {some_partitions(own_numbers(lost))} in Kafka are not those whose "
            "events were applied.",
            left.last_fresh(lost),
            left.lookups(lost),
            "Set PROJECTOR_TOPIC_PREFIX as for the workers. If it is right, a topic was "
            "recreated: restore Kafka's data, or rebuild.",
            "runbook.md#history-lost",
            f"recreated: {', '.join(topics)}",
            own_numbers(lost),
        )


def leaderless(left: Unexplained) -> Iterator[Cause]:
    """Explain partitions without a leader in Kafka."""
    taken = left.take(n for n, p in left.open.items() if p.leaderless)
    if taken:
        topics = sorted({topic for p in taken for topic in p.leaderless})
        yield Cause(
            "partition-leaderless",
            left.severity(taken),
            f"Kafka has no leader for {' and '.join(topics)} of "
            f"{some_partitions(own_numbers(taken))}.",
            left.last_fresh(taken),
            left.lookups(taken),
            "Start the brokers that are away, or repair them; workers go on by themselves.",
            "runbook.md#partition-leaderless",
            partitions=own_numbers(taken),
        )


def unclaimed(left: Unexplained) -> Iterator[Cause]:
    """Explain partitions that no worker has claimed although others are."""
    taken = left.take(n for n, p in left.open.items() if p.state is PartitionHealth.UNCLAIMED)
    if taken:
        yield Cause(
            "partitions-unclaimed",
            left.severity(taken),
            f"No worker has claimed {some_partitions(own_numbers(taken))} yet.",
            None,
            left.lookups(taken),
            "Wait for the worker that starts, or start one; its log has the reason.",
            "runbook.md#partition-unclaimed",
            partitions=own_numbers(taken),
        )


def behind(left: Unexplained) -> Iterator[Cause]:
    """Explain what is left: the owner reports, and catches up or is held up."""
    if taken := left.take(list(left.open)):
        stale = any(p.state is PartitionHealth.STALE for p in taken)
        owners = sorted({escape_control_chars(p.owner or "") for p in taken})
        yield Cause(
            "partitions-stale" if stale else "partitions-late",
            left.severity(taken),
            f"{some_partitions(own_numbers(taken)).capitalize()} "
            f"{'is' if len(taken) == 1 else 'are'} behind, although the worker is there.",
            left.last_fresh(taken),
            left.lookups(taken),
            "Wait while the lag falls. Otherwise look into the log of "
            f"{' and '.join(owners[:2])} for `outage` and `history lost`.",
            f"runbook.md#partition-{'stale' if stale else 'late'}",
            _lag(taken),
            own_numbers(taken),
        )


def _options(partitions: Iterable[PartitionStatus]) -> str:
    return " ".join(f"--partition {p.partition}" for p in list(partitions)[:MAX_OPTIONS])


def _lag(partitions: Iterable[PartitionStatus]) -> str | None:
    """Write how many records are not applied, by topic; None if that is not known."""
    lags: Counter[str] = Counter()
    known = [p.lag for p in partitions if p.lag is not None]
    for lag in known:
        lags.update(lag)
    by_topic = ", ".join(f"{topic} {count}" for topic, count in lags.items() if count)
    return f"records of Kafka not applied: {by_topic or 0}" if known else None
