"""Keys of memberships by scope and user."""

from collections.abc import Collection, Iterable, Iterator

from projector.domain import fact_keys
from projector.domain.fact_keys import Key

Held = Key | frozenset[Key]


class MembershipIndex:
    """An index of nearly all facts, at about 100 bytes for each membership.

    Most users have one membership in a scope (a group or project). Its key is stored bare, since a
    set with one key would take 216 bytes more.
    """

    def __init__(self) -> None:
        self._scopes: dict[Key, dict[int, Held]] = {}

    def __len__(self) -> int:
        """Return the number of groups and projects with members."""
        return len(self._scopes)

    def add(self, keys: Iterable[Key]) -> None:
        """Add memberships; repeating one changes nothing."""
        # By the start of the key: many keys in a row belong to the same few large groups.
        users_by_prefix: dict[str, dict[int, Held]] = {}
        for key in keys:
            prefix, _, rest = key.partition(fact_keys.USER)
            users = users_by_prefix.get(prefix)
            if users is None:
                scope, _ = fact_keys.membership_of(key)
                users = users_by_prefix[prefix] = self._scopes.setdefault(scope, {})
            user = int(rest.partition("/")[0])
            held = users.setdefault(user, key)
            if held is not key:
                users[user] = _held({*_keys(held), key})

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
