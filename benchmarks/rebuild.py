"""A worker that rebuilds an empty Redis from Kafka, against a plain consumer that only copies.

The product's time is from its first claim until every partition is fresh.
"""

from tests.integration.deployment import Deployment

from benchmarks import producing, progress
from benchmarks.live import PARTITIONS, Traffic
from benchmarks.processes import CpuClock, Servers, once
from benchmarks.rounds import Point, Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Rebuild the whole history and, if the run grows, shorter ones."""
    for events in sizes.steps(sizes.rebuilt_events):
        is_last = events == sizes.rebuilt_events
        rounds = _rounds(servers, events, sizes.rounds if is_last else sizes.growth_rounds)
        if is_last:
            report.figures["rebuild"] = rounds
        if sizes.grows:
            report.growth.setdefault("rebuild_by_events", []).append(Point(events, rounds))


def _rounds(servers: Servers, events: int, rounds: int) -> list[Round]:
    with servers.deployment(PARTITIONS) as deployment, servers.valkey() as other:
        traffic = Traffic()
        lines = [*traffic.base(), *traffic.take(events)]
        producing.send(deployment.kafka, deployment.prefix, lines)

        def copied() -> Sample:
            port = deployment.redis.connection_pool.connection_kwargs["port"]
            seconds, cpu = once(
                "consume_and_set", deployment.kafka, deployment.prefix, PARTITIONS, port, other
            )
            return Sample(len(lines) / seconds, cpu / len(lines) * 1e6)

        return interleaved(rounds, lambda: _rebuilt(deployment, len(lines)), copied)


def _rebuilt(deployment: Deployment, events: int) -> Sample:
    deployment.redis.flushall()
    worker = deployment.start("worker")
    progress.until_claimed(deployment.redis, PARTITIONS, 0)
    with CpuClock(worker.process.pid) as cpu:
        seconds = progress.until_fresh(deployment.redis, PARTITIONS, 0)
    worker.stop()
    return Sample(events / seconds, cpu.seconds / events * 1e6)
