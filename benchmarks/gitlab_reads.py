"""Snapshots and polls of GitLab's tables, against COPY of the same rows."""

import time
import urllib.request
from itertools import count
from typing import Final, NamedTuple

from tests.integration.deployment import Deployment
from tests.integration.servers import eventually

from benchmarks import gitlab_sent, gitlab_server
from benchmarks.gitlab_server import PATIENCE_S, GitLab, paused, start_bridge
from benchmarks.processes import CpuClock, Servers, once, peak_bytes
from benchmarks.rounds import Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes
from projector.ports import free_port, is_listening

PARTITIONS: Final = 4
MB: Final = 1e6
SELDOM, OFTEN = "3600", "0.1"
INTERVALS: Final = ("POLL_INTERVAL", "POLL_JOBS_INTERVAL")
STEPS: Final = "projector_gitlab_batch_seconds"
slots: Final = count(1)


class Polled(NamedTuple):
    """A kind of poll: the interval that is short, the step of the metric, the limit."""

    interval: str
    step: str
    copied: str


POLLS: Final = {
    "gitlab_poll": Polled("POLL_INTERVAL", "poll_all", "poll"),
    "gitlab_poll_jobs": Polled("POLL_JOBS_INTERVAL", "poll_jobs", "jobs"),
}


def snapshot(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure the rows a second of a snapshot, and the bridge's memory with many rows."""
    with gitlab_server.running(sizes.gitlab_rows) as gitlab:
        rounds = _snapshots(servers, gitlab, sizes.gitlab_rounds)
    report.figures["gitlab_snapshot"] = rounds
    if sizes.gitlab_many_rows != sizes.gitlab_rows:
        with gitlab_server.running(sizes.gitlab_many_rows) as gitlab:
            rounds = _snapshots(servers, gitlab, min(sizes.growth_rounds, sizes.gitlab_rounds))
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
    with gitlab_server.running(sizes.gitlab_rows) as gitlab:
        for figure, polled in POLLS.items():
            with servers.deployment(PARTITIONS) as deployment:
                poller = Poller(gitlab, deployment, polled)
                report.figures[figure] = interleaved(
                    sizes.gitlab_rounds, poller.polled, poller.copied
                )


class Poller:
    """A bridge that reads some tables again and again, except while the limit is measured."""

    def __init__(self, gitlab: GitLab, deployment: Deployment, polled: Polled) -> None:
        self._gitlab = gitlab
        self._polled = polled
        port = free_port()
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        intervals = {f"PROJECTOR_GITLAB_{name}": SELDOM for name in INTERVALS}
        intervals[f"PROJECTOR_GITLAB_{polled.interval}"] = OFTEN
        self._bridge = start_bridge(
            deployment, gitlab, polled.step, **intervals,
            PROJECTOR_GITLAB_SOURCE="poll", PROJECTOR_GITLAB_WEB_PORT=str(port),
        )  # fmt: skip
        eventually(lambda: is_listening(port), f"the bridge listens: {self._bridge.log()}")

    def polled(self) -> Sample:
        """Return the seconds of the next poll; the one under way may have been paused."""
        before = self._until(self._spent()[0] + 2)
        after = self._until(before[0] + 1)
        return Sample((after[1] - before[1]) / (after[0] - before[0]))

    def copied(self) -> Sample:
        """Return the seconds of COPY, while the bridge stands still."""
        with paused(self._bridge):
            copied = _copied(self._gitlab, self._polled.copied)
        return Sample(copied.more["s"], None, copied.more)

    def _until(self, steps: float) -> tuple[float, float]:
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._spent())[0] < steps:
            if self._bridge.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the bridge does not poll: {self._bridge.log()}")
            time.sleep(0.02)
        return found

    def _spent(self) -> tuple[float, float]:
        """Return how many steps there were, and their seconds."""
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:
            text = answer.read().decode()
        labels = "{" + f'step="{self._polled.step}"' + "}"
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if labels in line)
        steps, seconds = (found.get(STEPS + kind + labels, 0) for kind in ("_count", "_sum"))
        return float(steps), float(seconds)
