"""Causes of trouble that lie in Redis, in Kafka or in its topics."""

import math
from collections.abc import Iterator
from typing import Final

from projector.clients.trusted_clock import HOLD_S, JUMPED
from projector.operators.diagnosis.unexplained import Unexplained, own_numbers
from projector.operators.diagnosis.words import many, some_partitions
from projector.operators.status_model import (
    Cause,
    Deployment,
    KafkaFault,
    KafkaTrouble,
    PartitionHealth,
    Severity,
    Status,
    WorkerHealth,
)
from projector.store.silent_source import NOTED_MS

KAFKA: Final = {
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
# A stamp may be so much older than the answer of Kafka that it follows.
STAMP_S: Final = 1.0
# Of more, the list is longer than a screen.
MANY_LETTERS: Final = 20


def refused_writes(left: Unexplained) -> Iterator[Cause]:
    """Explain all partitions by a Redis of which no server accepts a stamp."""
    if (reason := left.status.refused_writes) is None:
        return
    taken = left.take(list(left.open))
    yield Cause(
        "redis-refuses-writes",
        left.severity(taken),
        "Redis refuses writes.",
        left.last_fresh(taken),
        left.lookups(taken),
        "Give Redis more memory or disk; workers go on by themselves.",
        "runbook.md#redis-refuses-writes",
        reason,
        own_numbers(taken),
    )


def jumped_clock(left: Unexplained) -> Iterator[Cause]:
    """Explain partitions whose owners do not believe the clock of Redis."""
    taken = left.take(n for n, p in left.open.items() if p.outage and JUMPED in p.outage)
    if taken:
        yield Cause(
            "clock-jumped",
            left.severity(taken),
            "The clock of Redis jumped.",
            None,  # All ages are by that clock.
            left.lookups(taken),
            f"Wait {HOLD_S:g} s: then workers believe it. Compare `redis-cli TIME` with a right "
            "clock, and repair the time service.",
            "runbook.md#clock-jumped",
            partitions=own_numbers(taken),
        )


def kafka(left: Unexplained) -> Iterator[Cause]:
    """Explain all partitions by a Kafka that workers do not have either."""
    trouble = left.status.kafka_trouble
    if trouble is None or trouble.fault is KafkaFault.TOPICS_MISSING:
        return
    what, advice = KAFKA[trouble.fault]
    name = trouble.fault.value
    if trouble.fault is not KafkaFault.TOPICS_UNUSABLE:
        name = f"kafka-{name}"
    alive = _workers_have_kafka(left.status, trouble)
    is_well = alive or (left.status.partitions and not left.not_fresh)
    taken = [] if alive else left.take(_without_kafka(left))
    yield Cause(
        name,
        Severity.NOTICE if is_well else left.severity(left.not_fresh),
        f"{what} from here, but workers go on." if alive else f"{what}.",
        left.last_fresh(taken) or trouble.since,
        "This changes nothing for lookups."
        if alive
        else left.lookups(left.not_fresh or left.status.partitions),
        advice,
        f"runbook.md#{name}",
        trouble.reason,
        own_numbers(taken),
    )


def _workers_have_kafka(status: Status, trouble: KafkaTrouble) -> bool:
    """Whether a worker has had Kafka's records after this command had them last.

    A Kafka that answers here has refused this command alone: any worker that has records proves it.
    """
    lasted = math.inf
    if trouble.fault is KafkaFault.UNREACHABLE and trouble.lasted is not None:
        lasted = trouble.lasted
    return any(
        (worker.state is WorkerHealth.WAITING and lasted > NOTED_MS / 1000)
        or (worker.state is WorkerHealth.WORKING and (worker.age or 0.0) < lasted - STAMP_S)
        for worker in status.workers
    )


def _without_kafka(left: Unexplained) -> list[int]:
    """Return the partitions that stand still because workers do not have Kafka.

    While another worker has fresh partitions, a silent one has a trouble of its own: without Kafka
    it would report.
    """
    workers = left.status.workers
    is_in_doubt = any(worker.state is WorkerHealth.WORKING for worker in workers)
    silent = [w for w in workers if is_in_doubt and w.state is WorkerHealth.SILENT]
    return [*left.open.keys() - {n for worker in silent for n in worker.partitions}]


def missing_topics(left: Unexplained) -> Iterator[Cause]:
    """Explain what waits for topics; before the first claim, all partitions."""
    trouble = left.status.kafka_trouble
    if trouble is None or trouble.fault is not KafkaFault.TOPICS_MISSING:
        return
    if any(p.state is PartitionHealth.FRESH for p in left.status.partitions):
        yield other_topics(left.status, trouble.reason)
    elif left.status.workers:
        yield _lost_topics(left, trouble)
    else:
        yield _no_topics(left, trouble)


def _no_topics(left: Unexplained, trouble: KafkaTrouble) -> Cause:
    taken = left.take(list(left.open))
    return Cause(
        "topics-missing",
        left.severity(left.not_fresh),
        "Topics are missing in Kafka, and workers wait for them.",
        left.last_fresh(taken),
        left.lookups(left.not_fresh),
        "Set PROJECTOR_TOPIC_PREFIX as for the feeders, or create the topics: `projector topics`.",
        "runbook.md#topics-missing",
        trouble.reason,
        own_numbers(taken),
    )


def _lost_topics(left: Unexplained, trouble: KafkaTrouble) -> Cause:
    """Describe topics that this command misses although workers have read theirs.

    The advice creates no topics: no worker would read those of a wrong prefix.
    """
    return Cause(
        "topics-missing",
        left.severity(left.not_fresh),
        f"Topics are missing in Kafka {_with_prefix(left.status.deployment)}.",
        trouble.since,
        left.lookups(left.not_fresh),
        "Set PROJECTOR_TOPIC_PREFIX as for the workers.",
        "runbook.md#topics-missing",
        trouble.reason,
    )


def other_topics(status: Status, detail: str) -> Cause:
    """Describe settings whose topics are not those of the workers, which go on."""
    return Cause(
        "other-topics",
        Severity.NOTICE,
        "The workers of this Redis take their events from other topics than those "
        f"{_with_prefix(status.deployment)}.",
        None,
        "Lookups get what the workers' topics have, not these.",
        "Set PROJECTOR_TOPIC_PREFIX, PROJECTOR_KAFKA and PROJECTOR_REDIS_URL as for the workers.",
        "runbook.md#other-topics",
        detail,
    )


def _with_prefix(deployment: Deployment | None) -> str:
    prefix = deployment.topic_prefix if deployment else ""
    return f"with the prefix `{prefix}`" if prefix else "without a prefix"


def refused_letters(left: Unexplained) -> Iterator[Cause]:
    """Find partitions that are fresh although Kafka does not take their dead letters."""
    fresh = [p for p in left.status.partitions if p.state is PartitionHealth.FRESH]
    found = [p for p in fresh if p.letters and (p.outage or "").startswith("Kafka")]
    if found:
        yield Cause(
            "dead-letters-refused",
            Severity.NOTICE,
            f"Kafka does not take the dead letters of {some_partitions(own_numbers(found))}.",
            None,
            "This changes nothing for lookups yet.",
            "Repair the topic `dead-letters`; workers go on by themselves.",
            "runbook.md#dead-letters-refused",
            found[0].outage,
        )


def dead_letters(left: Unexplained) -> Iterator[Cause]:
    """Find dead letters that were not replayed; partitions are not touched by them."""
    if count := left.status.waiting_letters:
        yield Cause(
            "dead-letters",
            Severity.NOTICE,
            f"{many(count, 'event')} had a fault and became "
            f"{'a dead letter' if count == 1 else 'dead letters'}.",
            None,
            "Answers lack what these events were to change, unless they were applied all the same.",
            f"{_list(count)}, correct and replay them.",
            "runbook.md#dead-letters-arriving",
        )


def _list(count: int) -> str:
    by_reason = " --group-by reason" if count > MANY_LETTERS else ""
    return f"List them with `projector dead-letters list{by_reason}`"
