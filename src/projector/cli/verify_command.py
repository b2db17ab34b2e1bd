"""`projector verify`: the stored views compared with those that the facts justify.

The values in Redis are not trusted: control characters are escaped.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import typer

from projector.cli.terminal import (
    FINDING,
    as_json,
    connected,
    load_settings,
    progress_bar,
    run_command,
)
from projector.config.settings import Settings
from projector.domain.decision import ViewRules
from projector.log import escape_control_chars
from projector.operators.verify.comparison import Verifier, live_records
from projector.operators.verify.run import (
    NOT_COMPARED,
    DifferenceRow,
    NotComparedRow,
    Outcome,
    VerifyRow,
    VerifyRun,
)
from projector.store import schema
from projector.store.partition_count import choose_partitions, require_partition_count
from projector.store.view_diff import Mismatch


def verify(partitions: list[int] | None, *, repair: bool, json: bool) -> None:
    """Compare every view with the facts."""
    settings = load_settings()
    run = run_command(settings, _verify(settings, partitions, repair))
    rows = sorted(run.rows, key=lambda row: (not row.over_grant, row.partition or 0, row.job or 0))
    for row in rows:
        typer.echo(as_json(row) if json else escape_control_chars(as_text(row)))
    typer.echo(_summary(rows, run), err=json)
    if any(row.outcome != Outcome.REPAIRED for row in rows):
        raise typer.Exit(FINDING)


async def _verify(settings: Settings, partitions: list[int] | None, repair: bool) -> VerifyRun:
    rules = ViewRules(settings.minimum_level, settings.max_view_bytes)
    async with connected(settings) as redis:
        count = await require_partition_count(redis)
        wanted = choose_partitions(partitions, count)
        with progress_bar() as bar:
            task = bar.add_task("comparing", total=None)
            verifier = Verifier(redis, rules, lambda n: bar.advance(task, n))
            run = VerifyRun(redis, verifier, await live_records(redis, wanted), repair=repair)
            for partition in wanted:
                bar.update(task, description=f"partition {partition}")
                await run.verify(partition)
            if len(wanted) == count:
                await run.verify_unclaimed()
    return run


def as_text(row: VerifyRow) -> str:
    """Write the row on one line."""
    partition = "no partition" if row.partition is None else f"partition {row.partition}"
    if isinstance(row, NotComparedRow):
        return f"{row.outcome}: {partition}: {row.error}"
    job = "" if row.job is None else f", job {row.job}"
    token = "" if row.token_sha256 is None else f", token {row.token_sha256}"
    kind = "OVER-GRANT, " if row.over_grant else ""
    differences = "; ".join(_differences(row))
    return f"{row.outcome}: {kind}{partition}{job}{token}: {differences}"


def _differences(row: DifferenceRow) -> Iterator[str]:
    for mismatch in row.differences:
        match mismatch:
            case Mismatch.STATUS:
                yield f"status {row.status} instead of {row.expected_status}"
            case Mismatch.BODY:
                yield "body" + "".join(_agents(row))
            case Mismatch.EXPIRY:
                yield "it expires at another time"
            case Mismatch.ORPHAN:
                yield f"no fact names this {_subject(row)}" + "".join(_agents(row))
            case Mismatch.FOREIGN:
                yield f"its record is one of partition {row.foreign_partition}"
            case Mismatch.JOB_KEY:
                yield _job_key(row) + "".join(_agents(row))
            case Mismatch.UNREADABLE:
                yield "its record is unreadable"
            case _:
                yield str(mismatch)


def _subject(row: DifferenceRow) -> str:
    return "job" if row.token_sha256 is None else "token"


def _job_key(row: DifferenceRow) -> str:
    key = schema.job_key(row.job or 0)
    if row.token_sha256 is None:
        return f"{key} holds a digest, which the job does not have"
    if Mismatch.FOREIGN in row.differences:
        return f"{key} leads to an answer that signed tokens of the job must not get"
    consequence = ", so signed tokens of the job get another answer" if row.over_grant else ""
    return f"{key} does not name it{consequence}"


def _agents(row: DifferenceRow) -> Iterator[str]:
    for words, agents in (
        ("too many", row.agents_too_many),
        ("missing", row.agents_too_few),
        ("otherwise", row.agents_otherwise),
    ):
        if agents:
            yield f", agents {words}: {', '.join(map(str, agents))}"


def _summary(rows: Sequence[VerifyRow], run: VerifyRun) -> str:
    counts = Counter(str(row.outcome) for row in rows)
    grants = sum(row.over_grant for row in rows)
    differ = sum(counts[name] for name in (Outcome.FOUND, Outcome.REPAIRED, Outcome.NOT_REPAIRED))
    names = (Outcome.REPAIRED, Outcome.NOT_REPAIRED, Outcome.NOT_SETTLED, NOT_COMPARED)
    counted = "".join(f", {counts[name]} {name}" for name in names if counts[name])
    compared = f"{run.tokens} tokens compared ({run.live} live)"
    return f"{compared}: {differ} differ ({grants} over-grants){counted}"
