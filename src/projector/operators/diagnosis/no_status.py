"""Causes of a missing status: Redis is away, refuses this client, or lacks what it must hold."""

from projector.clients.redis_access import redis_outage, redis_reason
from projector.errors import PartitionCountError
from projector.operators.diagnosis.unexplained import ALL_503
from projector.operators.status_model import Cause, Severity


def missing_status(place: str, error: Exception, since: int | None) -> Cause:
    """Describe why Redis at `place` gives no status; `since` is when it gave the last one (ms)."""
    if isinstance(error, PartitionCountError):
        return _no_count(str(error), since)
    if reason := redis_reason(error):
        return _refused(f"Redis at {place} {reason}", since)
    return redis_unreachable(f"Redis at {place} cannot be reached: {redis_outage(error)}", since)


def redis_unreachable(reason: str, since: int | None) -> Cause:
    """Describe a Redis that is away."""
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


def _refused(reason: str, since: int | None) -> Cause:
    return Cause(
        "redis-refused",
        Severity.OUTAGE,
        "Redis refuses this client.",
        since,
        "Lookups get 503 if workers or APIs are refused too.",
        "Set user, password, certificate and URL of Redis as for the workers (docs/security.md).",
        "runbook.md#redis-refused",
        reason,
    )


def _no_count(reason: str, since: int | None) -> Cause:
    return Cause(
        "partition-count-damaged",
        Severity.OUTAGE,
        "The number of partitions in Redis is damaged.",
        since,
        ALL_503,
        "Wait two seconds: a running worker writes it again. Without one, delete the key and start "
        "a worker.",
        "runbook.md#partition-count-damaged",
        reason,
    )
