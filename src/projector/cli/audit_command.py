"""`projector audit`: the facts compared with an upstream export, and repaired.

The facts and the export are not trusted: control characters are escaped.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple, TypeVar

import typer

from projector.cli.display.audit_sentences import as_text
from projector.cli.terminal import (
    FINDING,
    WRONG,
    as_json,
    connected,
    fail,
    load_settings,
    open_input,
    progress_bar,
    refuse_lines,
    run_command,
)
from projector.config.settings import Settings
from projector.events.model import Instant
from projector.events.timestamps import to_rfc3339
from projector.log import escape_control_chars
from projector.operators.audit.comparison import (
    EVERYTHING,
    AuditScope,
    Export,
    FactMismatch,
    kinds_named,
    read_export,
)
from projector.operators.audit.run import (
    AuditRequest,
    AuditRow,
    AuditRun,
    FindingRow,
    refuse_unsafe_repair,
)
from projector.store.partition_count import require_partition_count

T = TypeVar("T")

NOTHING: Final = "nothing was compared"


class Options(NamedTuple):
    """The options of the command line; `taken` in ms. `scope` None: what the export has."""

    scope: AuditScope | None
    kinds: frozenset[str]
    roots: frozenset[str]
    taken: int | None
    skew_ms: int
    repair: bool
    as_json: bool


def audit(  # noqa: PLR0913  one for each option
    export: str,
    kinds: Iterable[str],
    namespaces: Iterable[int],
    taken: str | None,
    clock_skew: float,
    *,
    everything: bool,
    repair: bool,
    json: bool,
) -> None:
    """Compare the facts with an export."""
    settings = load_settings()
    named = _parsed("--kind", lambda: kinds_named(kinds))
    moment = None if taken is None else _parsed("--taken", lambda: Instant.parse(taken))
    roots = frozenset(map(str, namespaces))
    if everything and (named or roots):
        fail(WRONG, "--all: compares everything; leave --kind and --namespace out")
    scope = EVERYTHING if everything else None
    options = Options(scope, named, roots, moment, int(clock_skew * 1000), repair, json)
    with open_input(export) as source:
        is_good = run_command(settings, _audit(settings, export, source, options))
    if not is_good:
        raise typer.Exit(FINDING)


def _parsed(option: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        fail(WRONG, f"{option}: {error}")


async def _audit(settings: Settings, name: str, source: BinaryIO, options: Options) -> bool:
    """Compare and print; return False if differences are left."""
    async with connected(settings) as redis:
        partitions = await require_partition_count(redis)
        export = _read_export(name, source, partitions, may_be_empty=options.scope is not None)
        request = _request(export, source, options)
        if options.repair:
            await refuse_unsafe_repair(settings, redis, request)
        run = AuditRun(settings, redis, request)
        try:
            with progress_bar() as bar:
                for partition in bar.track(range(partitions), description="comparing"):
                    _show(await run.audit(partition), json=options.as_json)
        finally:
            _show(run.perhaps_fed, json=options.as_json)
    for line in _summary(run, request):
        typer.echo(escape_control_chars(line), err=options.as_json)
    return run.is_good


def _show(rows: list[AuditRow], *, json: bool) -> None:
    """Print the rows of one partition, of which there may be many."""
    for row in sorted(rows, key=_over_grants_first):
        typer.echo(as_json(row) if json else escape_control_chars(as_text(row)))


def _over_grants_first(row: AuditRow) -> bool:
    return not (isinstance(row, FindingRow) and row.over_grant)


def _read_export(name: str, source: BinaryIO, partitions: int, *, may_be_empty: bool) -> Export:
    export, bad = read_export(source, partitions)
    if bad:
        refuse_lines(name, bad, NOTHING)
    if not export.count and not may_be_empty:
        fail(WRONG, f"{name} does not hold an event", NOTHING)
    return export


def _request(export: Export, source: BinaryIO, options: Options) -> AuditRequest:
    """Fill in from the export the options that were not given."""
    scope = options.scope or AuditScope(
        options.kinds or frozenset(export.kinds), options.roots or frozenset(export.roots)
    )
    taken = export.taken if options.taken is None else options.taken
    return AuditRequest(export, scope, source, taken, options.skew_ms, options.repair)


def _summary(run: AuditRun, request: AuditRequest) -> Iterator[str]:
    export, scope, counts = request.export, request.scope, run.counts
    mismatches = (FactMismatch.MISSING, FactMismatch.EXTRA, FactMismatch.DIFFERENT)
    differing = ", ".join(f"{counts[mismatch]} {mismatch}" for mismatch in mismatches)
    when = (
        "without its time, so nothing counts as newer"
        if request.taken is None
        else f"of {to_rfc3339(request.taken)}"
    )
    yield (
        f"{export.count} entities in the export {when}: {differing}, "
        f"{counts[FactMismatch.NEWER]} newer than the export"
    )
    where = (
        "all namespaces" if scope.roots is None else f"namespace {', '.join(sorted(scope.roots))}"
    )
    yield f"compared: {', '.join(sorted(scope.kinds))} of {where}"
    if left_out := _left_out(run):
        yield f"not compared: {', '.join(left_out)}"
    if run.fed:
        yield f"{run.fed} events fed; run audit again once they are applied"


def _left_out(run: AuditRun) -> list[str]:
    roots = len(run.left_out_roots)
    return [*sorted(run.left_out_kinds), *([f"{roots} other namespaces"] if roots else [])]
