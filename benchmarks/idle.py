"""CPU of a worker that has nothing to do, beside a Faust worker whose agents only acknowledge.

Both run at the same time and neither gets an event, so CPU time is all there is to compare.
"""

import time
from contextlib import ExitStack
from typing import Final

from benchmarks import progress
from benchmarks.processes import Conversation, CpuClock, Servers
from benchmarks.rounds import Report, Round, Sample
from benchmarks.sizes import Sizes

PARTITIONS: Final = (16, 64)
# The claims, Faust's first rebalance and the first commits are over by then.
SETTLED_S: Final = 2.0


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure with few partitions and, up to the wanted number, with many."""
    for partitions in PARTITIONS:
        if partitions <= sizes.idle_partitions:
            report.figures[f"idle_{partitions}"] = _rounds(servers, partitions, sizes)


def _rounds(servers: Servers, partitions: int, sizes: Sizes) -> list[Round]:
    with ExitStack() as stack:
        product = stack.enter_context(servers.deployment(partitions))
        other = stack.enter_context(servers.deployment(partitions))
        worker = product.start("worker").process
        agent = stack.enter_context(
            Conversation("ack_agent", servers.kafka, other.prefix, other.folder, "own-consumer")
        )
        agent.read_line()
        progress.until_fresh(product.redis, partitions, 0)
        time.sleep(SETTLED_S)
        return [_round(worker.pid, agent.pid, sizes.idle_seconds) for _ in range(sizes.rounds)]


def _round(worker: int, agent: int, seconds: float) -> Round:
    began = time.monotonic()
    with CpuClock(worker) as product, CpuClock(agent) as limit:
        time.sleep(seconds)
    took = time.monotonic() - began
    return Round(*(Sample(clock.seconds / took * 100) for clock in (product, limit)))
