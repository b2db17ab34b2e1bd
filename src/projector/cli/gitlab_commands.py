"""`projector gitlab`: feed the topics from GitLab's PostgreSQL.

psycopg is imported inside the commands, since only the extra `gitlab` installs it.
"""

from importlib.util import find_spec
from pathlib import Path

from projector.cli.terminal import WRONG, fail, load_settings, refuse_settings, run_command
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import SettingsError, advise_extra


def load_all_settings() -> tuple[Settings, GitlabSettings]:
    """Load the settings of a `gitlab` command; end it where one is wrong or psycopg is missing."""
    settings = load_settings()
    try:
        gitlab = GitlabSettings.load()
    except SettingsError as error:
        refuse_settings(error)
    if find_spec("psycopg") is None:
        fail(
            WRONG,
            f"psycopg, the client of PostgreSQL, is not installed; {advise_extra('gitlab')}",
        )
    from projector.gitlab.postgres.dsn import connection_strings

    try:
        connection_strings(gitlab)
    except SettingsError as error:
        refuse_settings(error)
    return settings, gitlab


def check(*, sql: bool) -> None:
    """Print findings, or the SQL for the administrator."""
    settings, gitlab = load_all_settings()
    from projector.cli import gitlab_output

    if sql:
        gitlab_output.print_script(gitlab)
    else:
        gitlab_output.print_check(settings, gitlab)


def export(state: Path | None) -> None:
    """Print everything that is due now."""
    _, gitlab = load_all_settings()
    from projector.cli import gitlab_output

    gitlab_output.print_export(gitlab, state)


def run(*, audit: bool) -> None:
    """Feed the topics until a signal."""
    settings, gitlab = load_all_settings()
    from projector.gitlab.bridge import run_bridge

    hook = None
    if audit:
        from projector.cli.gitlab_audit import audit_hook

        hook = audit_hook(settings)
    run_command(settings, run_bridge(settings, gitlab, hook))
