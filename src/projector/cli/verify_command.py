"""`projector verify`, `audit` and `rebuild`: is the projection what its events say, and if not?

What stands in Redis, in Kafka or in a file was written by anybody: nothing of it reaches the
terminal unescaped.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from projector.cli.options import AsJson, Partitions, chosen, connected, progress_bar
from projector.cli.terminal import FINDING, as_json, harmless, load_settings, run_command
from projector.config.settings import Settings
from projector.errors import SnapshotError
from projector.operators import verify
from projector.operators.verify import Difference, Findings, Verifier
from projector.store import schema
from projector.store.partition_count import require_partition_count
from projector.store.view_diff import Mismatch, diff_agents

NOT_SETTLED: Final = "not settled"
FOUND: Final = "found"
REPAIRED: Final = "repaired"
NOT_REPAIRED: Final = "not repaired"
NOT_COMPARED: Final = "not compared"


# verify


def verify_views(
    partition: Partitions = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write what the facts say where it differs.")
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Compute every view anew from the facts and compare it with the one in Redis.

    The facts are those of the checkpoint; workers go on meanwhile. What differs is looked at
    again before it counts. Over-grants (a token is allowed more than the facts allow) come first.
    Tokens are named by their SHA-256. Use the settings that the workers have. Why a repair undoes
    nothing is in docs/guarantees.md.

    Exits with 0 when all is equal, or all was repaired and a second look agrees; with 1 when
    anything differs or could not be compared; with 2 when there is no such partition; with 3 when
    Redis cannot be reached.

    \b
    projector verify
    projector verify --partition 15 --repair
    projector verify --json | jq 'select(.over_grant)'
    """
    settings = load_settings()
    rows, tokens = run_command(settings, _verify(settings, partition, repair))
    rows.sort(key=lambda row: (not row["over_grant"], row["partition"] or 0, row["job"] or 0))
    for row in rows:
        typer.echo(as_json(row) if as_json_ else harmless(told_of(row)))
    typer.echo(_counted(rows, tokens), err=as_json_)
    if any(row["outcome"] != REPAIRED for row in rows):
        raise typer.Exit(FINDING)


async def _verify(
    settings: Settings, partitions: list[int] | None, repair: bool
) -> tuple[list[dict[str, Any]], int]:
    """A row for each difference, and how many tokens were compared."""
    rows: list[dict[str, Any]] = []
    tokens = 0
    async with connected(settings) as redis:
        count = await require_partition_count(redis)
        wanted = chosen(partitions, count)
        with progress_bar() as bar:
            task = bar.add_task("comparing", total=None)
            verifier = Verifier(redis, settings.minimum_level, lambda n: bar.advance(task, n))
            live = await verify.live_tokens(redis, wanted)
            for partition in wanted:
                bar.update(task, description=f"partition {partition}")
                try:
                    found = await verifier.verify(partition, live)
                except SnapshotError as error:
                    rows.append(_unread(partition, error))
                    continue
                tokens += found.tokens
                rows += await _rows(verifier, found, repair, partition)
                if found.more:
                    rows.append(_unread(partition, f"{found.more} more tokens seem to differ"))
            if len(wanted) == count and not any("error" in row for row in rows):
                nobodys = await verifier.unreadable(live.unreadable)
                rows += await _rows(verifier, Findings(0, nobodys, []), repair, None)
    return rows, tokens


async def _rows(
    verifier: Verifier, found: Findings, repair: bool, partition: int | None
) -> list[dict[str, Any]]:
    """A row for each difference, also of those whose repair a claim has interrupted."""
    outcomes = dict.fromkeys((each.digest for each in found.differences), FOUND)
    rows: list[dict[str, Any]] = []
    if repair and found.differences:
        try:
            await _repaired(verifier, found.differences, outcomes)
        except SnapshotError as error:
            rows.append(_unread(partition, error))
    rows += [row_of(each, outcomes[each.digest]) for each in found.differences]
    rows += [row_of(each, NOT_SETTLED) for each in found.unsettled]
    return rows


async def _repaired(
    verifier: Verifier, differences: list[Difference], outcomes: dict[str, str]
) -> None:
    """Repair, and write into `outcomes` what a second look says of each."""
    outcomes |= dict.fromkeys(outcomes, NOT_REPAIRED)
    for each in differences:
        await verifier.repair(each)
    left = {each.digest for each in await verifier.again(differences)}
    outcomes |= {digest: REPAIRED for digest in outcomes if digest not in left}


def row_of(difference: Difference, outcome: str) -> dict[str, Any]:
    """What is said of a token whose record differs."""
    too_many, too_few, others = diff_agents(difference.view, difference.stored)
    record = difference.stored.record
    foreign = record.partition if record and Mismatch.FOREIGN in difference.what else None
    return {
        "partition": difference.partition,
        "job": difference.job,
        "token_sha256": difference.digest,
        "differences": list(difference.what),
        "over_grant": difference.grants_more,
        "status": record.status if record else None,
        "expected_status": int(difference.view.status) if difference.view else None,
        "agents_too_many": too_many,
        "agents_too_few": too_few,
        "agents_otherwise": others,
        "foreign_partition": foreign,
        "outcome": outcome,
    }


def _unread(partition: int | None, reason: object) -> dict[str, Any]:
    return {
        "partition": partition, "job": None, "token_sha256": None, "over_grant": False,
        "outcome": NOT_COMPARED, "error": str(reason),
    }  # fmt: skip


def told_of(row: dict[str, Any]) -> str:
    """The row on one line."""
    place = "no partition" if row["partition"] is None else f"partition {row['partition']}"
    if "error" in row:
        return f"{row['outcome']}: {place}: {row['error']}"
    job = "" if row["job"] is None else f", job {row['job']}"
    kind = "OVER-GRANT, " if row["over_grant"] else ""
    what = "; ".join(_in_words(row))
    return f"{row['outcome']}: {kind}{place}{job}, token {row['token_sha256']}: {what}"


def _in_words(row: dict[str, Any]) -> Iterator[str]:
    """What differs, in words."""
    for what in row["differences"]:
        match what:
            case Mismatch.STATUS:
                yield f"status {row['status']} instead of {row['expected_status']}"
            case Mismatch.BODY:
                yield "body" + "".join(_agents_in_words(row))
            case Mismatch.EXPIRY:
                yield "it expires at another time"
            case Mismatch.ORPHAN:
                yield "no fact knows this token" + "".join(_agents_in_words(row))
            case Mismatch.FOREIGN:
                yield f"it stands as one of partition {row['foreign_partition']}"
            case Mismatch.JOB_KEY:
                yield f"{schema.job_token_key(row['job'])} does not name it"
            case Mismatch.UNREADABLE:
                yield "what stands there is no record"
            case _:
                yield str(what)


def _agents_in_words(row: dict[str, Any]) -> Iterator[str]:
    names = {
        "agents_too_many": "too many", "agents_too_few": "missing", "agents_otherwise": "otherwise"
    }  # fmt: skip
    for name, words in names.items():
        if row[name]:
            yield f", agents {words}: {', '.join(map(str, row[name]))}"


def _counted(rows: list[dict[str, Any]], tokens: int) -> str:
    outcomes = Counter(row["outcome"] for row in rows)
    grants = sum(row["over_grant"] for row in rows)
    differ = sum(outcomes[name] for name in (FOUND, REPAIRED, NOT_REPAIRED))
    said = f"{tokens} tokens compared: {differ} differ ({grants} over-grants)"
    names = (REPAIRED, NOT_REPAIRED, NOT_SETTLED, NOT_COMPARED)
    return said + "".join(f", {outcomes[name]} {name}" for name in names if outcomes[name])
