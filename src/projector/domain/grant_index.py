"""Grants of agents' configurations by the project or group that they name."""

from collections import defaultdict
from collections.abc import Collection, Iterator

from projector.domain import fact_keys
from projector.domain.entities import Configuration, Group, Project
from projector.domain.fact_keys import Key
from projector.domain.multimap import Multimap
from projector.events import ci_access
from projector.events.ci_access import Grant


class GrantIndex:
    """All grants by target and agent, and the known projects and groups by path.

    A target is what an entry names: the key of a project or group, or the key of a path.
    """

    def __init__(self) -> None:
        self._grants: defaultdict[Key, dict[int, Grant]] = defaultdict(dict)
        self._by_path: Multimap[Key, Key] = Multimap()

    def add(self, key: Key, configuration: Configuration) -> None:
        """Add the grants of an agent's configuration."""
        agent = fact_keys.id_of(key)
        for target, grant in granted_targets(key, configuration):
            self._grants[target][agent] = grant

    def discard(self, key: Key, configuration: Configuration) -> None:
        """Remove the grants of an agent's configuration."""
        agent = fact_keys.id_of(key)
        for target, _ in granted_targets(key, configuration):
            grants = self._grants.get(target, {})
            grants.pop(agent, None)
            if not grants:
                self._grants.pop(target, None)

    def add_scope(self, key: Key, scope: Group | Project) -> None:
        """Add the path of a project or group."""
        self._by_path[fact_keys.path_of(key, scope.path)].add(key)

    def discard_scope(self, key: Key, scope: Group | Project) -> None:
        """Remove the path of a project or group."""
        self._by_path.discard(fact_keys.path_of(key, scope.path), key)

    def of_scope(self, key: Key, scope: Group | Project | None) -> dict[int, Grant]:
        """Return what names exactly this project or group, by agent; the last entry counts."""
        found = dict(self._grants.get(key, {}))
        by_path = self._grants.get(fact_keys.path_of(key, scope.path), {}) if scope else {}
        for agent, grant in by_path.items():
            found[agent] = max(grant, found.get(agent, grant), key=lambda g: g.position)
        return found

    def names_path(self, key: Key, scope: Group | Project) -> bool:
        """Return whether any grant names this project or group by its path."""
        return fact_keys.path_of(key, scope.path) in self._grants

    def scopes_of(self, target: Key) -> Collection[Key]:
        """Return the keys of the projects or groups that a target names."""
        return self._by_path.get(target) or (target,)


def granted_targets(key: Key, configuration: Configuration) -> Iterator[tuple[Key, Grant]]:
    """Yield each grant of a configuration with its target."""
    root = fact_keys.root_of(key)
    for kind, entries in (("project", configuration.projects), ("group", configuration.groups)):
        for grant in ci_access.read_grants(entries):
            yield fact_keys.target_key(root, kind, grant.target), grant
