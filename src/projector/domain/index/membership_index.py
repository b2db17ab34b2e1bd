"""Keys of memberships that are not packed, by scope and user."""

from collections.abc import Collection, Iterator

from projector.domain import fact_keys
from projector.domain.fact_keys import Key

Held = Key | frozenset[Key]


class MembershipIndex:
    """An index of memberships through shares and of those that expire.

    Most users have one membership in a scope (a group or project). Its key is stored bare, since a
    set with one key would take 216 bytes more.
    """

    def __init__(self) -> None:
        self._scopes: dict[Key, dict[int, Held]] = {}

    def __len__(self) -> int:
        """Return the number of groups and projects with members."""
        return len(self._scopes)

    def add(self, key: Key) -> None:
        """Add a membership; repeating one changes nothing."""
        scope, user = fact_keys.membership_of(key)
        users = self._scopes.setdefault(scope, {})
        users[user] = _held({*_keys(users.get(user)), key})

    def discard(self, key: Key) -> None:
        """Remove a membership; its user and scope go with their last one."""
        scope, user = fact_keys.membership_of(key)
        users = self._scopes.get(scope, {})
        if rest := {*_keys(users.pop(user, None))} - {key}:
            users[user] = _held(rest)
        if not users:
            self._scopes.pop(scope, None)

    def of(self, scope: Key, user: int) -> Collection[Key]:
        """Return the user's memberships in exactly this group or project."""
        return _keys(self._scopes.get(scope, {}).get(user))

    def within(self, scope: Key) -> Iterator[Key]:
        """Yield all memberships in exactly this group or project; each may be removed meanwhile."""
        users = self._scopes.get(scope, {})
        for user in list(users):
            yield from _keys(users.get(user))


def _keys(held: Held | None) -> Collection[Key]:
    if held is None:
        return ()
    return (held,) if isinstance(held, str) else held


def _held(keys: set[Key]) -> Held:
    return frozenset(keys) if len(keys) > 1 else keys.pop()
