"""Who is a member of what: the keys of all memberships, by scope and user."""

from collections.abc import Collection, Iterable

from projector.domain import fact_keys
from projector.domain.fact_keys import Key

Held = Key | frozenset[Key]


class MembershipIndex:
    """An index of the largest part of all facts, at some 100 bytes for each.

    Most users have one membership in a scope (a group or project): it is held bare, since a set for
    it alone would take 216 bytes more.
    """

    def __init__(self) -> None:
        self._scopes: dict[Key, dict[int, Held]] = {}

    def __len__(self) -> int:
        """How many groups and projects have members."""
        return len(self._scopes)

    def add(self, keys: Iterable[Key]) -> None:
        """Take them in, each as often as it comes."""
        # By the beginning of the key, for many in a row are of the same few large groups.
        near: dict[str, dict[int, Held]] = {}
        for key in keys:
            beginning, _, rest = key.partition(fact_keys.USER)
            users = near.get(beginning)
            if users is None:
                scope, _ = fact_keys.membership_of(key)
                users = near[beginning] = self._scopes.setdefault(scope, {})
            user = int(rest.partition("/")[0])
            held = users.setdefault(user, key)
            if held is not key:
                users[user] = _held({*_keys(held), key})

    def discard(self, key: Key) -> None:
        """Let go of a membership, and of its scope and user with their last."""
        scope, user = fact_keys.membership_of(key)
        users = self._scopes.get(scope, {})
        if rest := {*_keys(users.pop(user, None))} - {key}:
            users[user] = _held(rest)
        if not users:
            self._scopes.pop(scope, None)

    def of(self, scope: Key, user: int) -> Collection[Key]:
        """The user's memberships in exactly this group or project."""
        return _keys(self._scopes.get(scope, {}).get(user))

    def within(self, scope: Key) -> list[Key]:
        """Everybody's memberships in exactly this group or project."""
        return [key for held in self._scopes.get(scope, {}).values() for key in _keys(held)]


def _keys(held: Held | None) -> Collection[Key]:
    if held is None:
        return ()
    return (held,) if isinstance(held, str) else held


def _held(keys: set[Key]) -> Held:
    return frozenset(keys) if len(keys) > 1 else keys.pop()
