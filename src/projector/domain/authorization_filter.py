"""Whether the grant that won lets this job in: its environment, and its ref.

GitLab: app/services/clusters/agents/authorizations/ci_access/filter_service.rb. Deliberately other
than GitLab's: a pattern must match the whole name, and only `*` is special in it.
"""

from typing import Any

from msgspec import Struct

from projector.domain.entities import Job


class FilterContext(Struct, frozen=True):
    """All that filters look at of a job; `environment` is the name of the one it deploys to."""

    environment: str | None
    ref_protected: bool


def filter_context(job: Job) -> FilterContext:
    """What filters look at of the job."""
    return FilterContext(job.environment.name if job.environment else None, job.ref_protected)


def refusing_filter(configuration: dict[str, Any], context: FilterContext) -> str | None:
    """Which key of the configuration refuses such a job, or None."""
    if not _allows_environment(configuration.get("environments"), context.environment):
        return "environments"
    if _is_true(configuration.get("protected_branches_only")) and not context.ref_protected:
        return "protected_branches_only"
    return None


def matches(pattern: str, name: str) -> bool:
    """Whether the whole name matches; `*` stands for any run of characters, even none.

    Each part is searched for once, from where the last one ended: linear in both lengths.
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
    """Without patterns all jobs are let in; by patterns that are no list of texts none is."""
    if patterns is None or patterns == []:
        return True
    if name is None or not isinstance(patterns, list):
        return False
    return any(isinstance(pattern, str) and matches(pattern, name) for pattern in patterns)


def _is_true(value: object) -> bool:
    """As in Ruby, where only nil and false are not true: the text "false" is."""
    return value is not None and value is not False
