"""`projector gitlab`: feed the topics from GitLab's PostgreSQL.

psycopg is imported inside the commands, since only the extra `gitlab` installs it.
"""

from importlib.util import find_spec
from typing import Annotated

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
        fail(WRONG, *(f"wrong setting: {line}" for line in str(error).splitlines()))
    if find_spec("psycopg") is None:
        fail(
            WRONG,
            "psycopg, the client of PostgreSQL, is not installed; "
            "pip install 'allowed-agents-projector[gitlab]'",
        )
    return settings, gitlab


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
