"""Usage of `projector gitlab`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The feed from GitLab's PostgreSQL: check, run, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(short_help="Find what must be mended before the bridge can run.")
def check(
    *,
    sql: Annotated[
        bool,
        typer.Option(
            "--sql", help="Print the SQL for the database's administrator, and check nothing."
        ),
    ] = False,
) -> None:
    """Find what must be mended in GitLab's database, in Kafka and here, and print how.

    It connects as the bridge does, and changes nothing. A finding is one sentence; below it are the
    SQL, the line of a file, or the variable that mends it. A hint need not be mended.

    Exits with 0 when the bridge can run; with 2 when something must be mended; with 3 when
    PostgreSQL or Kafka cannot be reached.

    \b
    projector gitlab check
    projector gitlab check --sql > for-the-administrator.sql
    """
    from projector.cli import gitlab_commands

    gitlab_commands.check(sql=sql)


@app.command(short_help="Print all that is due now, for `projector audit`.")
def export(
    *,
    state: Annotated[
        Path | None,
        typer.Option(
            help="The bridge's state file; it may be in use. Without it, users who were blocked "
            "once and jobs that left their root namespace are not as the bridge has told them."
        ),
    ] = None,
) -> None:
    """Print everything that is due now, one CloudEvent (JSON) a line, for `projector audit`.

    It reads GitLab's tables in one snapshot, and needs nothing but the right to SELECT. The bridge
    may run meanwhile.

    Exits with 0; with 2 when a table or the state file cannot be read; with 3 when PostgreSQL
    cannot be reached.

    \b
    projector gitlab export --state gitlab.db > export.ndjson
    projector gitlab export --state gitlab.db | projector audit --all -
    """
    from projector.cli import gitlab_commands

    gitlab_commands.export(state)


@app.command("run", short_help="Feed the topics from PostgreSQL, and vouch for them.")
def run(
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="After the state was lost or restored, topics were made anew or Kafka lost "
            "records: send everything again, then end all facts that GitLab no longer has, whoever "
            "told them. Waits for Redis and the workers.",
        ),
    ] = False,
) -> None:
    """Feed the topics from GitLab's PostgreSQL, and send the heartbeats of the source `gitlab`.

    Run one for each GitLab: a second one waits until the first ends. Waits for Kafka, the topics
    and PostgreSQL. Let a supervisor start it again whenever it ends: it goes on from its state.

    Exits with 0 on SIGINT or SIGTERM; with 1 when it cannot go on; with 2 when a setting, the
    state, a topic, or GitLab's database must be corrected first; with 3 when Kafka or Redis cannot
    be reached any more.

    \b
    export PROJECTOR_SOURCES=gitlab PROJECTOR_KAFKA=kafka:9092
    export PROJECTOR_GITLAB_DATABASE='host=db dbname=gitlabhq_production user=projector'
    projector gitlab run
    """
    from projector.cli import gitlab_commands

    gitlab_commands.run(audit=audit)
