"""Snapshots and polls of GitLab's tables, against COPY of the same rows."""

import time
from itertools import count
from typing import Final

from benchmarks import gitlab_sent, gitlab_server
from benchmarks.gitlab_server import GitLab, start_bridge
from benchmarks.processes import CpuClock, Servers, once, peak_bytes
from benchmarks.rounds import Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes

PARTITIONS: Final = 4
MB: Final = 1e6
slots: Final = count(1)


def snapshot(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure the rows a second of a snapshot, and the bridge's memory with many rows."""
    with gitlab_server.running(sizes.gitlab_rows) as gitlab:
        rounds = _snapshots(servers, gitlab, sizes.rounds)
    report.figures["gitlab_snapshot"] = rounds
    if sizes.gitlab_many_rows != sizes.gitlab_rows:
        with gitlab_server.running(sizes.gitlab_many_rows) as gitlab:
            rounds = _snapshots(servers, gitlab, sizes.growth_rounds)
    report.figures["gitlab_memory"] = [Round(_memory(r.product), _memory(r.limit)) for r in rounds]


def _snapshots(servers: Servers, gitlab: GitLab, rounds: int) -> list[Round]:
    return interleaved(
        rounds, lambda: _snapshot(servers, gitlab), lambda: _copied(gitlab, "snapshot")
    )


def _snapshot(servers: Servers, gitlab: GitLab) -> Sample:
    slot, rows = f"snapshot_{next(slots)}", gitlab.size.rows
    with servers.deployment(PARTITIONS) as deployment:
        bridge = start_bridge(deployment, gitlab, slot)
        gitlab.until_slot(slot, bridge)
        began = time.time()
        with CpuClock(bridge.process.pid) as cpu:
            ended = gitlab_sent.until_vouched(servers.kafka, deployment.prefix, PARTITIONS)
        memory = peak_bytes(bridge.process.pid)
        bridge.stop()
    gitlab.drop_slot(slot)
    return Sample(rows / (ended - began), cpu.seconds / rows * 1e6, {"MB": memory / MB})


def _copied(gitlab: GitLab, kind: str) -> Sample:
    seconds, cpu, memory = once("copy_gitlab", gitlab.dsn, kind)
    rows = gitlab.size.rows
    return Sample(rows / seconds, cpu / rows * 1e6, {"MB": memory / MB, "s": seconds})


def _memory(sample: Sample) -> Sample:
    return Sample(sample.more["MB"], None, sample.more)


def poll(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure the polls of all tables, and of jobs and users, while nothing changes."""
