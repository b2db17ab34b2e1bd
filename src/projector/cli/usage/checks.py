"""Usage of `projector status`, `explain`, `verify` and `audit`."""

from typing import Annotated

import typer

from projector.cli.usage.options import AsJson, Partitions
from projector.domain.entities import AUDITED_KINDS
from projector.events.model import MAX_ID


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on every second, until Ctrl-C.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Show each partition in a row of its own.")
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0.0,
            help="Return once all is fresh, with 0; after so many seconds with 1 and the cause.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show what is wrong, and how fresh every partition is.

    The first line names the deployment. Then comes each cause of trouble: since when, what lookups
    get, what to do. Then the partitions, the worst first; those of one worker and state share a
    row, with the greatest age and sums.

    A partition is fresh: all its events were applied at most 2 s ago. Late: longer ago, which is a
    fault, but lookups are still answered. Stale: longer ago than PROJECTOR_MAX_STALENESS, so
    lookups get 503. Unclaimed: no worker has ever owned it. Rates and revocations are those of the
    last five minutes. A worker without partitions is not listed.

    A source is heard: its last heartbeat that counted is at most 2 s old. Late: it is older, or a
    partition waits for the source. Silent: older than PROJECTOR_MAX_STALENESS, or none has come.
    Unknown: no worker has reported for seven seconds. An age may be shown up to five seconds too
    high.

    With --wait every partition must be fresh as of a time after the command began. So it is the
    step between two restarts. Every field of the JSON is in docs/monitoring.md.

    Exits with 0 when all are fresh and heard; with 1 when any is not; with 2 when a setting is
    wrong, Redis refuses the user, or the number of partitions there is damaged; with 3 when Redis
    cannot be reached.

    \b
    projector status
    projector status --watch
    projector status --wait 60
    projector status --json | jq -r '.causes[] | .what, .advice'
    """
    from projector.cli import status_command

    status_command.status(watch=watch, unfolded=all_, wait=wait, json=as_json)


def explain(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The job's id.", min=1, max=MAX_ID)],
    agent: Annotated[
        int | None,
        typer.Argument(
            metavar="AGENT", help="The agent's id; without it all agents.", min=1, max=MAX_ID
        ),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Name the event that each line comes from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explain why a job may or may not use an agent.

    The first line is the answer. It is computed from the facts in Redis by the workers' rules, and
    is never older than what lookups get. With --events a line ends with its event: topic,
    partition and offset in Kafka (of a replay, the original's), and Kafka's time.
    Times are local, with the date unless it is today. Read on in docs/explain.md.

    Exits with 0 when the job may use AGENT (without AGENT: with any answer); with 1 when it may
    not; with 2 when there is no such job; with 3 when Redis cannot be reached.

    \b
    projector explain 9
    projector explain 9 6 --events
    projector explain 9 --json | jq '.explanation.agents[] | {id, verdict, rule}'
    """
    from projector.cli import explain_command

    explain_command.explain(job, agent, events=events, json=as_json)


def verify(
    partition: Partitions = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write the view of the facts where it differs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compute every view from the facts and compare it with the one in Redis.

    The facts are those of the checkpoint; workers go on meanwhile. A difference counts if a second
    look finds it again. Over-grants (a token is allowed more than the facts allow) come first.
    Tokens of finished jobs are compared too; those of running jobs are the live ones.
    Tokens are named by their SHA-256; a job without one is named by its id. Use the settings that
    the workers have. Why a repair undoes nothing is in docs/guarantees.md.

    Exits with 0 when all is equal, or all was repaired and a second look agrees; with 1 when
    anything differs or could not be compared; with 2 when there is no such partition; with 3 when
    Redis cannot be reached.

    \b
    projector verify
    projector verify --partition 15 --repair
    projector verify --json | jq 'select(.over_grant)'
    """
    from projector.cli import verify_command

    verify_command.verify(partition, repair=repair, json=as_json)


def audit(  # noqa: PLR0913  one for each option
    export: Annotated[
        str,
        typer.Argument(
            metavar="EXPORT", help="The file: one CloudEvent (JSON) a line; - for stdin."
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
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare the facts with an upstream export: missing, extra, different.

    EXPORT has the lines that `feed` takes, of what there is: `*.set`, `job.started`,
    `agent.configured`. It counts as complete for the kinds and root namespaces that occur in it;
    all else that the facts hold of those is extra. A kind or a root namespace that has become empty
    is in no line. Compare it by --all, or name it by --kind or --namespace.

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
    projector audit export.ndjson --json | jq 'select(.what == "extra")'
    """
    from projector.cli import audit_command

    audit_command.audit(
        export, kind or (), namespace or (), taken, clock_skew,
        everything=all_, repair=repair, json=as_json,
    )  # fmt: skip
