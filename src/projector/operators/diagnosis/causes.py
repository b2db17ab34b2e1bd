"""All causes of trouble in a status, the worst first."""

from itertools import chain

from projector.operators.diagnosis import partitions, servers, sources, workers
from projector.operators.diagnosis.unexplained import Unexplained
from projector.operators.status_model import Cause, Severity, Status


def causes(status: Status) -> list[Cause]:
    """Find everything that is wrong, the worst first; nothing: all is well.

    The surest causes explain their partitions first. What is left is explained by itself.
    """
    left = Unexplained(status)
    order = list(Severity)

    def badness(cause: Cause) -> tuple[int, int]:
        return order.index(cause.severity), -len(left.unanswered.intersection(cause.partitions))

    found = chain(
        partitions.damage(left),
        servers.refused_writes(left),
        servers.jumped_clock(left),
        sources.silent_sources(left),
        sources.ignored_sources(left),
        partitions.other_logs(left),
        servers.kafka(left),
        servers.missing_topics(left),
        workers.no_worker(left),
        partitions.leaderless(left),
        workers.silent_workers(left),
        workers.cut_off_workers(left),
        partitions.unclaimed(left),
        partitions.behind(left),
        servers.refused_letters(left),
        servers.dead_letters(left),
    )
    return sorted(found, key=badness)
