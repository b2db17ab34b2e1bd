"""Statuses that tests make up: any number of partitions, ages, workers and sources."""

from collections.abc import Sequence
from typing import Any

import msgspec

from projector.events.model import Topic
from projector.operators.diagnosis.causes import causes
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.operators.status_model import (
    Deployment,
    PartitionHealth,
    PartitionStatus,
    Status,
    StatusTotals,
    WorkerHealth,
    WorkerStatus,
)
from projector.store.activity import ActivityRates

# 2026-11-29, 11:53:08 UTC.
NOW_MS = 1795953188000
LATE_S = 2.0
BOUND_S = 10.0
DEPLOYMENT = Deployment(
    "redis://redis.internal:6379/0", "kafka-1.internal:9092,kafka-2.internal:9092", "prod.", "0.1.0"
)
RATES = ActivityRates(
    events=41.2, refused=0.0, views=66.0, revocations=312, revocation_p50=0.012,
    revocation_p99=0.041, revocation_max=0.058,
)  # fmt: skip
FACTS, TOKENS = 12_480, 310


def partition(
    number: int, worker: int, age: float | None = 0.2, *, lag: int = 0, **more: Any
) -> PartitionStatus:
    """Make up a partition; without an age it is unclaimed."""
    owner = None if age is None else f"worker-{worker}-7c9f"
    return PartitionStatus(
        number, _health(age), owner, age, 7, 81_204, FACTS, TOKENS, {Topic.MEMBERSHIP: lag}, None,
        **more,
    )  # fmt: skip


def status(partitions: Sequence[PartitionStatus], **more: Any) -> Status:
    """Make up the status of these partitions, with the workers that own them, and the causes."""
    owners = sorted({each.owner for each in partitions if each.owner is not None})
    workers = [_worker(owner, [p for p in partitions if p.owner == owner]) for owner in owners]
    found = Status(
        NOW_MS, BOUND_S, list(partitions), workers, _totals(partitions), 0, deployment=DEPLOYMENT
    )
    found = msgspec.structs.replace(found, **more)
    return msgspec.structs.replace(found, causes=causes(found))


def source(name: str, age: float, waiting: Sequence[int] = ()) -> SourceStatus:
    """Make up a source whose last heartbeat came so many seconds ago."""
    health = SourceHealth.SILENT if age > BOUND_S else SourceHealth.HEARD
    return SourceStatus(name, health, age, list(waiting))


def _health(age: float | None) -> PartitionHealth:
    if age is None:
        return PartitionHealth.UNCLAIMED
    if age > BOUND_S:
        return PartitionHealth.STALE
    return PartitionHealth.LATE if age > LATE_S else PartitionHealth.FRESH


def _totals(partitions: Sequence[PartitionStatus]) -> StatusTotals:
    fresh, late, stale, unclaimed = (
        sum(each.state is state for each in partitions) for state in PartitionHealth
    )
    return StatusTotals(
        len(partitions), fresh, late, stale, unclaimed, FACTS * len(partitions),
        TOKENS * len(partitions), sum(sum((p.lag or {}).values()) for p in partitions), RATES,
    )  # fmt: skip


def _worker(owner: str, owned: Sequence[PartitionStatus]) -> WorkerStatus:
    age = min(each.age for each in owned if each.age is not None)
    health = WorkerHealth.WORKING if age <= LATE_S else WorkerHealth.SILENT
    return WorkerStatus(owner, [each.partition for each in owned], age, health)
