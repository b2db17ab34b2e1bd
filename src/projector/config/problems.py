"""Sentences about wrong settings, each with the name of its variable."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from projector.config.env import variable_name


def described(error: ValidationError, prefix: str = "") -> Iterator[str]:
    """Yield a line for each wrong setting; `prefix` precedes the names of the fields."""
    for problem in error.errors():
        yield from _lines(dict(problem), prefix)


def _lines(problem: dict[str, Any], prefix: str) -> list[str]:
    reason: str = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # of several settings together: the reason names them
        return reason.splitlines()
    name = variable_name(prefix + str(problem["loc"][0]))
    return [f"{name}: {reason[0].lower()}{reason[1:]}"]
