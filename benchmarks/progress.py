"""Progress of the product, read from the hashes of its partitions in Redis."""

import time
from collections.abc import Callable
from typing import Any, Final

from projector.events.model import Topic
from projector.store import schema

# A hundredth of the shortest measurement, and hardly any work for Redis.
POLL_S: Final = 0.01
PATIENCE_S: Final = 300.0
AT_ONCE_S: Final = 0.5


def until_applied(redis: Any, ends: dict[tuple[Topic, int], int]) -> float:
    """Wait until the checkpoints have reached `ends`; return the time (monotonic seconds)."""
    left, deadline = dict(ends), time.monotonic() + PATIENCE_S
    while left:
        places = list(left)
        pipe = redis.pipeline(transaction=False)
        for topic, partition in places:
            pipe.hget(schema.partition_key(partition), f"offset:{topic}")
        for place, offset in zip(places, pipe.execute(), strict=True):
            if int(offset or 0) >= left[place]:
                del left[place]
        _check(deadline, f"the checkpoints do not reach {left}")
        if left:
            time.sleep(POLL_S)
    return time.monotonic()


def until_delivered(redis: Any, send: Callable[[], dict[tuple[Topic, int], int]]) -> None:
    """Send events until they are applied at once: then Faust has caught up.

    Faust delivers again what the range reader has read. Until then new events are late by the two
    seconds after which they are read directly.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        sent = time.monotonic()
        if until_applied(redis, send()) - sent < AT_ONCE_S:
            return
        _check(deadline, "Faust does not catch up")


def until_fresh(redis: Any, partitions: int, after: int) -> float:
    """Wait until all are stamped after epoch `after`; return the seconds since the first claim.

    An epoch is Redis' time in milliseconds at its claim, so the start of a process is not counted.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        pipe = redis.pipeline(transaction=False)
        for partition in range(partitions):
            pipe.hmget(schema.partition_key(partition), "epoch", "stamp_epoch")
        pipe.time()
        *held, (seconds, microseconds) = pipe.execute()
        epochs = [(int(epoch or 0), int(stamped or 0)) for epoch, stamped in held]
        if all(after < epoch == stamped for epoch, stamped in epochs):
            first = min(epoch for epoch, _ in epochs)
            return float(seconds + microseconds / 1e6 - first / 1e3)
        _check(deadline, f"not every partition is fresh: {epochs}")
        time.sleep(POLL_S)


def until_claimed(redis: Any, partitions: int, after: int) -> None:
    """Wait until a partition has an epoch after `after`."""
    deadline = time.monotonic() + PATIENCE_S
    while last_epoch(redis, partitions) <= after:
        _check(deadline, "no worker claims a partition")
        time.sleep(POLL_S)


def last_epoch(redis: Any, partitions: int) -> int:
    """Return the epoch of the newest claim; 0 without one."""
    keys = map(schema.partition_key, range(partitions))
    return max(int(redis.hget(key, "epoch") or 0) for key in keys)


def _check(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(what)
