"""`projector gitlab`: feed the topics from GitLab's PostgreSQL.

psycopg is imported inside the commands, since only the extra `gitlab` installs it.
"""

from importlib.util import find_spec

import typer

from projector.cli.terminal import WRONG, fail, load_settings
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
