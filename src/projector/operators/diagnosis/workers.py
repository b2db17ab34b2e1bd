"""Causes of trouble that lie in workers: none has come, or some are silent."""

from collections.abc import Iterator, Sequence
from typing import Final

from projector.log import escape_control_chars
from projector.operators.diagnosis.unexplained import Unexplained, own_numbers
from projector.operators.diagnosis.words import some_partitions
from projector.operators.status_model import Cause, PartitionHealth, WorkerHealth, WorkerStatus

MAX_NAMED: Final = 8
MAX_REASONS: Final = 2


def no_worker(left: Unexplained) -> Iterator[Cause]:
    """Explain a deployment without a claim, unless a surer cause has explained some of it.

    A partition that cannot be read counts as unclaimed, although a worker may own it.
    """
    partitions = left.status.partitions
    if any(p.state is not PartitionHealth.UNCLAIMED for p in partitions):
        return
    if left.status.kafka_trouble or len(left.open) < len(partitions):
        return
    taken = left.take(list(left.open))
    yield Cause(
        "no-worker",
        left.severity(taken),
        "No worker has claimed a partition yet.",
        None,
        left.lookups(taken),
        "Start `projector worker`. If one runs, its log has the reason: `not ready` or "
        "`wrong setting`.",
        "runbook.md#no-worker",
        partitions=own_numbers(taken),
    )


def silent_workers(left: Unexplained) -> Iterator[Cause]:
    """Explain the partitions of workers that have stopped stamping and reporting."""
    silent = [w for w in left.status.workers if w.state is WorkerHealth.SILENT]
    taken = left.take(n for w in silent for n in w.partitions)
    if not taken:
        return
    all_ = len(silent) == len(left.status.workers)
    yield Cause(
        "workers-gone" if all_ else "worker-gone",
        left.severity(taken),
        f"{_workers(silent, all_)} {'is' if len(silent) == 1 else 'are'} silent.",
        left.last_fresh(taken),
        left.lookups(taken),
        "Start workers; if they run, look into their logs for `outage`." if all_ else
        "Wait for PROJECTOR_SESSION_TIMEOUT: other workers take its partitions. Then restart it.",
        "runbook.md#workers-gone" if all_ else "runbook.md#worker-gone",
        _partitions_of(silent),
        own_numbers(taken),
    )  # fmt: skip


def cut_off_workers(left: Unexplained) -> Iterator[Cause]:
    """Explain the partitions of workers that report, and wait for a server that answers here."""
    behind = [w for w in left.status.workers if w.state is WorkerHealth.BEHIND]
    reasons = {n: escape_control_chars(p.outage) for n, p in left.open.items() if p.outage}
    cut_off = [w for w in behind if reasons.keys() & w.partitions]
    taken = left.take(n for w in cut_off for n in w.partitions)
    if not taken:
        return
    outages = sorted({reasons[p.partition] for p in taken if p.partition in reasons})
    servers = " and ".join(sorted({each.partition(":")[0] for each in outages}))
    all_ = len(cut_off) == len(left.status.workers)
    yield Cause(
        "workers-cut-off" if all_ else "worker-cut-off",
        left.severity(taken),
        f"{_workers(cut_off, all_)} {'waits' if len(cut_off) == 1 else 'wait'} for {servers}.",
        left.last_fresh(taken),
        left.lookups(taken),
        f"Repair {servers}, or the way there from the worker; it goes on by itself.",
        "runbook.md#workers-cut-off",
        "; ".join([*outages[:MAX_REASONS], _partitions_of(cut_off)]),
        own_numbers(taken),
    )


def _partitions_of(workers: Sequence[WorkerStatus]) -> str:
    return "; ".join(f"{_name(w)}: {some_partitions(w.partitions)}" for w in workers[:MAX_NAMED])


def _workers(workers: Sequence[WorkerStatus], all_: bool) -> str:
    if all_:
        return "The only worker" if len(workers) == 1 else f"All {len(workers)} workers"
    named = [_name(w) for w in workers[:MAX_NAMED]]
    more = [f"{len(workers) - MAX_NAMED} more"] if len(workers) > MAX_NAMED else []
    return f"The worker{'' if len(workers) == 1 else 's'} {' and '.join(named + more)}"


def _name(worker: WorkerStatus) -> str:
    return escape_control_chars(worker.owner)
