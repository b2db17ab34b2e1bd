"""Names of the environment variables of settings."""

from typing import Final

PREFIX: Final = "PROJECTOR_"
# Before the names of the settings of `projector gitlab`, which are a class of their own.
GITLAB: Final = "gitlab_"
GITLAB_PREFIX: Final = PREFIX + GITLAB.upper()


def variable_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + field.upper()
