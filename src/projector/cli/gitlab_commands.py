"""`projector gitlab`: feed the topics from GitLab's PostgreSQL.

psycopg is imported inside the commands, since only the extra `gitlab` installs it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from projector.cli.terminal import WRONG, fail, load_settings, run_command
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import SettingsError

app = typer.Typer(
    help="The feed from GitLab's PostgreSQL: check, run, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def load_all_settings() -> tuple[Settings, GitlabSettings]:
    """Load the settings of a `gitlab` command; end it where one is wrong or psycopg is missing."""
    settings = load_settings()
    try:
        gitlab = GitlabSettings.load()
    except SettingsError as error:
        _refuse(error)
    if find_spec("psycopg") is None:
        fail(
            WRONG,
            "psycopg, the client of PostgreSQL, is not installed; "
            "pip install 'allowed-agents-projector[gitlab]'",
        )
    from projector.gitlab.postgres.dsn import connection_strings

    try:
        connection_strings(gitlab)
    except SettingsError as error:
        _refuse(error)
    return settings, gitlab


def _refuse(error: SettingsError) -> NoReturn:
    fail(WRONG, *(f"wrong setting: {line}" for line in str(error).splitlines()))


@app.command()
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
    settings, gitlab = load_all_settings()
    from projector.cli import gitlab_output

    if sql:
        gitlab_output.print_script(gitlab)
    else:
        gitlab_output.print_check(settings, gitlab)


@app.command()
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
    _, gitlab = load_all_settings()
    from projector.cli import gitlab_output

    gitlab_output.print_export(gitlab, state)


@app.command("run")
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
    settings, gitlab = load_all_settings()
    from projector.gitlab.bridge import run_bridge

    hook = None
    if audit:
        from projector.cli.gitlab_audit import audit_hook

        hook = audit_hook(settings)
    run_command(settings, run_bridge(settings, gitlab, hook))
