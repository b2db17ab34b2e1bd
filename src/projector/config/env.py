"""Settings are environment variables: how these are named."""

from typing import Final

PREFIX: Final = "PROJECTOR_"


def variable_name(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()
