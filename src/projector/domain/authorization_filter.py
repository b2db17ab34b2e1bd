"""Filters of an authorization: the job's environment, and whether its ref is protected.

GitLab: app/services/clusters/agents/authorizations/ci_access/filter_service.rb. Two differences
are deliberate: a pattern must match the whole name, and only `*` is special in it.
"""

from typing import Any

from msgspec import Struct

from projector.domain.entities import Job


class FilterContext(Struct, frozen=True):
    """All properties of a job that filters use; `environment` is the name of its environment."""

    environment: str | None
    ref_protected: bool


def filter_context(job: Job) -> FilterContext:
    """Return the properties of a job that filters use."""
    return FilterContext(job.environment.name if job.environment else None, job.ref_protected)


def refusing_filter(configuration: dict[str, Any], context: FilterContext) -> str | None:
    """Return the key of the configuration that refuses such a job, or None."""
    if not _allows_environment(configuration.get("environments"), context.environment):
        return "environments"
    if _is_true(configuration.get("protected_branches_only")) and not context.ref_protected:
        return "protected_branches_only"
    return None


def matches(pattern: str, name: str) -> bool:
    """Return whether the whole name matches; `*` is any run of characters, even an empty one.

    Searches for each part once, from the end of the part before it: linear in both lengths.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    *middle, last = rest
    at, end = len(first), len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _allows_environment(patterns: object, name: str | None) -> bool:
    """No patterns allow every job. Anything but a list of strings allows none."""
    if patterns is None or patterns == []:
        return True
    if name is None or not isinstance(patterns, list):
        return False
    return any(isinstance(pattern, str) and matches(pattern, name) for pattern in patterns)


def _is_true(value: object) -> bool:
    """As in Ruby, only nil and false are false; the text "false" is true."""
    return value is not None and value is not False
