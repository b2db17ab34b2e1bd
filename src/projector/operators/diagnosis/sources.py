"""Causes of trouble that lie in the sources that workers wait for."""

from collections.abc import Iterator

from projector.operators.diagnosis.unexplained import Unexplained, own_numbers
from projector.operators.diagnosis.words import some_partitions
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.operators.status_model import Cause, Severity


def silent_sources(left: Unexplained) -> Iterator[Cause]:
    """Explain partitions that wait for a source which is late or silent."""
    for source in left.status.sources:
        if source.state not in (SourceHealth.LATE, SourceHealth.SILENT):
            continue
        taken = left.take(source.waiting)
        never = " since before its workers began" if source.age is None else ""
        yield Cause(
            "source-silent",
            left.severity(taken),
            f"The source {source.source} has been silent{never}.",
            None if source.age is None else left.status.at - round(source.age * 1000),
            left.lookups(taken),
            f"Start the feeder of {source.source}, or read in its log why it sends no heartbeat.",
            "runbook.md#source-silent",
            partitions=own_numbers(taken),
        )


def ignored_sources(left: Unexplained) -> Iterator[Cause]:
    """Find sources that workers ignore, or that nothing is known of although all is fresh."""
    for source in left.status.sources:
        if source.ignored_by:
            yield _ignored(source)
        elif source.state is SourceHealth.UNKNOWN and not left.open:
            yield _unknown(source, left)


def _ignored(source: SourceStatus) -> Cause:
    return Cause(
        "source-ignored",
        Severity.DEGRADED,
        f"The workers of {some_partitions(source.ignored_by)} do not wait for the source "
        f"{source.source}.",
        None,
        "Answers there lack the source's bound on staleness.",
        "Set PROJECTOR_SOURCES alike for all workers, and restart them one at a time.",
        "runbook.md#source-ignored",
    )


def _unknown(source: SourceStatus, left: Unexplained) -> Cause:
    return Cause(
        "source-unknown",
        Severity.DEGRADED,
        f"No worker has reported on the source {source.source} for seven seconds.",
        None,
        left.lookups([]),
        "Run `projector status` again in a few seconds; if this stays, look into the workers' "
        "logs.",
        "runbook.md#source-silent",
    )
