"""Grants of agents' configurations, and of shared agents, by the project or group they name."""

from collections import defaultdict
from collections.abc import Collection, Iterator

from projector.domain import fact_keys
from projector.domain.entities import Configuration, Group, Project, SharedAgent
from projector.domain.fact_keys import Key
from projector.domain.index.multimap import Multimap
from projector.events import ci_access
from projector.events.ci_access import Grant

GrantsByTarget = defaultdict[Key, dict[int, Grant]]


class GrantIndex:
    """All grants by target and agent, and the known projects and groups by path.

    A target is what an entry names: the key of a project or group, or the key of a path.
    """

    def __init__(self) -> None:
        self._grants: GrantsByTarget = defaultdict(dict)
        self._shared: GrantsByTarget = defaultdict(dict)
        self._by_path: Multimap[Key, Key] = Multimap()

    def add(self, key: Key, granting: Configuration | SharedAgent) -> None:
        """Add the grants of an agent's configuration, or of a shared agent."""
        agent, by_target = fact_keys.id_of(key), self._of_kind(granting)
        for target, grant in granted_targets(key, granting):
            by_target[target][agent] = grant

    def discard(self, key: Key, granting: Configuration | SharedAgent) -> None:
        """Remove the grants of an agent's configuration, or of a shared agent."""
        agent, by_target = fact_keys.id_of(key), self._of_kind(granting)
        for target, _ in granted_targets(key, granting):
            grants = by_target.get(target, {})
            grants.pop(agent, None)
            if not grants:
                by_target.pop(target, None)

    def add_scope(self, key: Key, scope: Group | Project) -> None:
        """Add the path of a project or group."""
        self._by_path[fact_keys.path_of(key, scope.path)].add(key)

    def discard_scope(self, key: Key, scope: Group | Project) -> None:
        """Remove the path of a project or group."""
        self._by_path.discard(fact_keys.path_of(key, scope.path), key)

    def of_scope(self, key: Key, scope: Group | Project | None) -> dict[int, Grant]:
        """Return what the configurations grant to exactly this project or group, by agent."""
        return _of_scope(self._grants, key, scope)

    def shared_with(self, key: Key, scope: Group | Project | None) -> dict[int, Grant]:
        """Return what shared agents grant to exactly this project or group, by agent."""
        return _of_scope(self._shared, key, scope) if self._shared else {}

    def names_path(self, key: Key, scope: Group | Project) -> bool:
        """Return whether any grant names this project or group by its path."""
        path = fact_keys.path_of(key, scope.path)
        return path in self._grants or path in self._shared

    def scopes_of(self, target: Key) -> Collection[Key]:
        """Return the keys of the projects or groups that a target names."""
        return self._by_path.get(target) or (target,)

    def _of_kind(self, granting: Configuration | SharedAgent) -> GrantsByTarget:
        return self._shared if isinstance(granting, SharedAgent) else self._grants


def _of_scope(grants: GrantsByTarget, key: Key, scope: Group | Project | None) -> dict[int, Grant]:
    """Return the grants to exactly this project or group, by agent; the last entry counts."""
    found = dict(grants.get(key, {}))
    by_path = grants.get(fact_keys.path_of(key, scope.path), {}) if scope else {}
    for agent, grant in by_path.items():
        found[agent] = max(grant, found.get(agent, grant), key=lambda g: g.position)
    return found


def granted_targets(key: Key, granting: Configuration | SharedAgent) -> Iterator[tuple[Key, Grant]]:
    """Yield each grant of a configuration, or of a shared agent, with its target."""
    root = fact_keys.root_of(key)
    for kind, entries in (("project", granting.projects), ("group", granting.groups)):
        for grant in ci_access.read_grants(entries):
            yield fact_keys.target_key(root, kind, grant.target), grant
