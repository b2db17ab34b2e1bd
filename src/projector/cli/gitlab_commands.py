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
    resend: Annotated[
        bool,
        typer.Option(
            "--resend",
            help="Forget what was sent, and send everything again: for topics that were made anew.",
        ),
    ] = False,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="After the state was lost: send everything, then end all facts that GitLab no "
            "longer has, whoever told them. Needs Redis and the workers.",
        ),
    ] = False,
) -> None:
    """Feed the topics from GitLab's PostgreSQL, and send the heartbeats of the source `gitlab`.

    Run one for each GitLab: a second one waits until the first ends. Waits for Kafka, the topics
    and PostgreSQL. Let a supervisor start it again whenever it ends: it goes on from its state.

    Exits with 0 on SIGINT or SIGTERM; with 1 when it cannot go on; with 2 when a setting, the
    state, a topic, or GitLab's database must be corrected first.

    \b
    export PROJECTOR_SOURCES=gitlab PROJECTOR_KAFKA=kafka:9092
    export PROJECTOR_GITLAB_DATABASE='host=db dbname=gitlabhq_production user=projector'
    projector gitlab run
    """
    settings, gitlab = load_all_settings()
    from projector.gitlab.bridge import run_bridge
    from projector.gitlab.lost_state import Orders

    hook = None
    if audit:
        from projector.cli.gitlab_audit import audit_hook

        hook = audit_hook(settings)
    run_command(settings, run_bridge(settings, gitlab, Orders(hook, resend)))
