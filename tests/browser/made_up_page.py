"""The operators' page over statuses that tests make up: many partitions, many causes, rare faults."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette

from api.ops.auth import LoopbackAccess
from api.ops.partition_rows import fold_workers, listed_partitions
from api.ops.routes import create_routes
from projector.events.model import Topic
from projector.operators import diagnosis
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
from projector.process import free_port, is_listening
from projector.store.activity import ActivityRates
from tests.integration.servers import eventually

# 2026-11-29, 11:53:08 UTC.
NOW_MS = 1795953188000
DEPLOYMENT = Deployment(
    "redis://redis.internal:6379/0", "kafka-1.internal:9092,kafka-2.internal:9092", "prod.", "0.1.0"
)
RATES = ActivityRates(
    events=41.2, views=66.0, refused=0.0, revocations=312, revocation_p50=0.012,
    revocation_p99=0.041, revocation_max=0.058,
)  # fmt: skip


class MadeUpSource:
    """The page's data, as a test sets it."""

    def __init__(self, status: Status) -> None:
        self.current = status
        self.letters_found: dict[str, Any] = {"groups": [], "shown": 0, "read_at": "2026-11-29"}

    async def status(self, *, every_partition: bool) -> dict[str, Any]:
        found = msgspec.structs.replace(self.current, causes=diagnosis.causes(self.current))
        listed = found.partitions if every_partition else listed_partitions(found.partitions)
        rest: dict[str, Any] = msgspec.to_builtins(found)
        return rest | {
            "partitions": msgspec.to_builtins(listed),
            "workers": msgspec.to_builtins(fold_workers(found)),
            "now": found.at,
            "read_ago": 0.2,
            "minutes": minutes(),
            "lookups": {"200": 182_331, "401": 1_204, "503": 12},
        }

    async def letters(self) -> dict[str, Any]:
        return self.letters_found

    async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
        raise NotImplementedError


def minutes() -> list[dict[str, Any]]:
    """The last eleven minutes: three without a revocation, one with a slow one."""
    running = NOW_MS // 60_000
    counts = [31, 44, 0, 0, 12, 57, 38, 0, 61, 40, 9]
    return [
        {
            "minute": running - 10 + i, "events": 40 * count + 300, "revocations": count,
            "p50": 0.012 if count else None, "p99": (2.4 if count == 57 else 0.041) if count else None,
            "slowest": (2.6 if count == 57 else 0.06) if count else None,
        }
        for i, count in enumerate(counts)
    ]  # fmt: skip


def partition(number: int, worker: int, age: float | None = 0.2, **more: Any) -> PartitionStatus:
    """Make up a partition; its state follows from its age, without one it is unclaimed."""
    state = PartitionHealth.UNCLAIMED
    if age is not None:
        late = PartitionHealth.LATE if age > 2 else PartitionHealth.FRESH
        state = PartitionHealth.STALE if age > 10 else late
    return PartitionStatus(
        number, state, None if age is None else f"worker-{worker}-7c9f", age, 7, 81_204, 12_480, 310,
        {Topic.MEMBERSHIP: 0} if age is not None and age < 2 else {Topic.MEMBERSHIP: 412}, None, **more,
    )  # fmt: skip


def status(partitions: Sequence[PartitionStatus], **more: Any) -> Status:
    """Make up the status of these partitions, with the workers that own them."""
    owners = sorted({each.owner for each in partitions if each.owner is not None})
    count = {state: sum(p.state is state for p in partitions) for state in PartitionHealth}
    totals = StatusTotals(
        len(partitions), *(count[state] for state in PartitionHealth),
        facts=12_480 * len(partitions), live_tokens=310 * len(partitions), lag=0, rates=RATES,
    )  # fmt: skip
    workers = [_worker(owner, [p for p in partitions if p.owner == owner]) for owner in owners]
    return Status(
        NOW_MS, 10.0, list(partitions), workers, totals, **{"dead_letters": 0} | more,
        deployment=DEPLOYMENT,
    )  # fmt: skip


def source(name: str, age: float, waiting: Sequence[int] = ()) -> SourceStatus:
    health = SourceHealth.SILENT if age > 10 else SourceHealth.HEARD
    return SourceStatus(name, health, age, list(waiting))


def _worker(owner: str, owned: Sequence[PartitionStatus]) -> WorkerStatus:
    age = min(each.age for each in owned if each.age is not None)
    health = WorkerHealth.WORKING if age <= 2 else WorkerHealth.SILENT
    return WorkerStatus(owner, [each.partition for each in owned], age, health)


@contextmanager
def serving(source: MadeUpSource) -> Iterator[str]:
    """Serve the page on a loopback address; the value is its URL."""
    app = Starlette(routes=create_routes(LoopbackAccess(), source))
    config = uvicorn.Config(app, port=free_port(), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: is_listening(config.port), "the made-up page")
    yield f"http://127.0.0.1:{config.port}/ops/"
    server.should_exit = True
    thread.join()
