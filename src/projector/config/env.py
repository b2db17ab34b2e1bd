"""Names of the environment variables of settings."""

from typing import Final

PREFIX: Final = "PROJECTOR_"


def variable_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + field.upper()
