"""Snapshots and polls of GitLab's tables, against COPY of the same rows."""

import time
import urllib.request
from itertools import count
from typing import Final

from tests.integration.deployment import Deployment

from benchmarks import gitlab_sent, gitlab_server
from benchmarks.gitlab_server import PATIENCE_S, GitLab, paused, start_bridge
from benchmarks.processes import CpuClock, Servers, once, peak_bytes
from benchmarks.rounds import Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes
from projector.process import free_port

PARTITIONS: Final = 4
MB: Final = 1e6
STEPS: Final = "projector_gitlab_batch_seconds"
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
    with (
        gitlab_server.running(sizes.gitlab_rows) as gitlab,
        servers.deployment(PARTITIONS) as deployment,
    ):
        poller = Poller(servers, gitlab, deployment)
        for figure, step, kind in (
            ("gitlab_poll", "poll_all", "poll"),
            ("gitlab_poll_jobs", "poll_jobs", "jobs"),
        ):
            report.figures[figure] = [
                Round(poller.polled(step), poller.copied(kind)) for _ in range(sizes.rounds)
            ]


class Poller:
    """A bridge that polls without a pause, except while the limit is measured."""

    def __init__(self, servers: Servers, gitlab: GitLab, deployment: Deployment) -> None:
        self._gitlab = gitlab
        port = free_port()
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        self._bridge = start_bridge(
            deployment, gitlab, "poll",
            PROJECTOR_GITLAB_SOURCE="poll", PROJECTOR_GITLAB_WEB_PORT=str(port),
            PROJECTOR_GITLAB_POLL_INTERVAL="0.1", PROJECTOR_GITLAB_POLL_JOBS_INTERVAL="0.1",
        )  # fmt: skip
        gitlab_sent.until_vouched(servers.kafka, deployment.prefix, PARTITIONS)

    def polled(self, step: str) -> Sample:
        """Return the seconds of the next polls; the one under way may have been paused."""
        before = self._until(step, self._spent(step)[0] + 2)
        after = self._until(step, before[0] + 2)
        return Sample((after[1] - before[1]) / (after[0] - before[0]))

    def copied(self, kind: str) -> Sample:
        """Return the seconds of COPY, while the bridge stands still."""
        with paused(self._bridge):
            copied = _copied(self._gitlab, kind)
        return Sample(copied.more["s"], None, copied.more)

    def _until(self, step: str, count: float) -> tuple[float, float]:
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._spent(step))[0] < count:
            if self._bridge.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the bridge does not poll: {self._bridge.log()}")
            time.sleep(0.02)
        return found

    def _spent(self, step: str) -> tuple[float, float]:
        """Return how many steps there were, and their seconds."""
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:
            text = answer.read().decode()
        labels = "{" + f'step="{step}"' + "}"
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if labels in line)
        steps, seconds = (found.get(STEPS + kind + labels, 0) for kind in ("_count", "_sum"))
        return float(steps), float(seconds)
