"""The groups above a project, found by following parents."""

from collections.abc import Mapping
from typing import Final

from projector.domain.entities import Group, Project
from projector.domain.fact_keys import Key, Root, group_key, root_of
from projector.domain.facts import AnyFact

# GitLab allows 20 levels. The bound keeps a hostile chain from costing quadratic time.
MAX_DEPTH: Final = 100


def chain(facts: Mapping[Key, AnyFact], root: Root, group: int | None) -> tuple[list[int], bool]:
    """Return the group and all groups above it, nearest first, and whether all are known.

    A chain that is circular, or longer than `MAX_DEPTH`, counts as not known.
    """
    ids: dict[int, None] = {}
    while group is not None and group not in ids and len(ids) < MAX_DEPTH:
        ids[group] = None
        fact = facts.get(group_key(root, group))
        if fact is None or not isinstance(fact.data, Group):
            return list(ids), False
        group = fact.data.parent
    return list(ids), group is None


def groups_above(facts: Mapping[Key, AnyFact], project: Key) -> list[Key]:
    """Return the keys of the groups above a project, known or not, as far as parents lead."""
    root, fact = root_of(project), facts.get(project)
    data = fact.data if fact else None
    groups, _ = chain(facts, root, data.group if isinstance(data, Project) else None)
    return [group_key(root, group) for group in groups]
