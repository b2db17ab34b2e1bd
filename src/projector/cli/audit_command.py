"""`projector audit`: the facts compared with an upstream export, and repaired.

The facts and the export are not trusted: control characters are escaped.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, BinaryIO, Final, NamedTuple, TypeVar

import typer

from projector.cli.options import AsJson
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
from projector.operators.audit import (
    AUDITED_KINDS,
    EVERYTHING,
    AuditScope,
    Export,
    FactMismatch,
    kinds_named,
    read_export,
)
from projector.operators.audit_run import (
    AuditRequest,
    AuditRow,
    AuditRun,
    NotComparedRow,
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
    snapshot: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT", help="The export: one CloudEvent (JSON) a line; - for stdin."
        ),
    ],
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="The export lists everything of this kind; other kinds are not compared. May be "
            f"repeated: {', '.join(AUDITED_KINDS)}. Unless given: the kinds that occur in it."
        ),
    ] = None,
    namespace: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID", min=1,
            help="The same for a root namespace. Unless given: those that occur in it.",
        ),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option(
            "--all",
            help="The export lists everything: all kinds, and all root namespaces that Redis has "
            "facts of. It may be empty then.",
        ),
    ] = False,
    taken: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When the export was taken. Unless given: its earliest `time`."
        ),
    ] = None,
    clock_skew: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0,
            help="How far the exporter's clock may be from Kafka's; facts up to that much older "
            "than the export count as newer.",
        ),
    ] = 60.0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Feed events that repair the facts.")
    ] = False,
    as_json_: AsJson = False,
) -> None:  # fmt: skip
    """Compare the facts with an upstream export: missing, extra, different.

    SNAPSHOT has the lines that `feed` takes, of what there is: `*.set`, `job.started`,
    `agent.configured`. It counts as complete for the kinds and root namespaces that occur in it;
    all else that the facts hold of those is extra. A kind or a root namespace that has become empty
    is in no line: it is compared with --all, or where --kind and --namespace name it.

    A fact whose event came after the export is newer, and not a difference. So are facts up to
    --clock-skew seconds older: what went wrong just now shows in a later export. Repairs rank at
    the export's time: they never undo later events, not even a revocation that is still on its way.
    What an export must have is in docs/operations.md.

    Exits with 0 when all is equal, or every difference was fed; with 1 when there are differences
    (with --repair: that cannot be repaired); with 2 when a line is bad or there is none; with 3
    when Redis or Kafka cannot be reached.

    \b
    projector audit export.ndjson
    projector gitlab export --state gitlab.db | projector audit --all -
    my-export --members | projector audit - --taken 2027-01-15T08:00:00Z --repair
    projector audit export.ndjson --kind job --json | jq 'select(.what == "extra")'
    """
    settings = load_settings()
    kinds = _parsed("--kind", lambda: kinds_named(kind or ()))
    moment = None if taken is None else _parsed("--taken", lambda: Instant.parse(taken))
    roots = frozenset(map(str, namespace or ()))
    if all_ and (kinds or roots):
        fail(WRONG, "--all: compares everything; leave --kind and --namespace out")
    scope = EVERYTHING if all_ else None
    options = Options(scope, kinds, roots, moment, int(clock_skew * 1000), repair, as_json_)
    with open_input(snapshot) as source:
        is_good = run_command(settings, _audit(settings, snapshot, source, options))
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
        with progress_bar() as bar:
            for partition in bar.track(range(partitions), description="comparing"):
                for row in await run.audit(partition):
                    text = as_json(row) if options.as_json else escape_control_chars(as_text(row))
                    typer.echo(text)
    for line in _summary(run, request):
        typer.echo(escape_control_chars(line), err=options.as_json)
    return run.is_good


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


def as_text(row: AuditRow) -> str:
    """Write the row on one line."""
    if isinstance(row, NotComparedRow):
        return f"{row.what}: partition {row.partition}: {row.error}"
    text = f"{row.what}: {row.key}"
    if row.line is not None:
        text += f", line {row.line}"
    for name, values in row.fields.items():
        text += f", {name} is {values.fact!r} and not {values.export!r}"
    if row.offset is not None and row.timestamp is not None:
        place = f"{row.topic} partition {row.partition}, offset {row.offset}"
        text += f", by the event at {place}, of {to_rfc3339(row.timestamp)}"
    return f"{text}: {row.outcome}" if isinstance(row.outcome, str) else text


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
