"""Facts of direct memberships without an expiry, packed.

Nearly all facts are such memberships. Packed, one takes 120 to 160 bytes where a scope has five
members or more. That is less than half of its objects and entries in plain dicts and indexes.
Alone in its scope it takes 400. Loading it is cheaper too.

Their key has nothing but scope and user, and only four numbers differ. So both can be made again
from scope, user and 26 bytes. A fact with anything else is left to its caller.
"""

from collections.abc import Iterator, Mapping
from struct import Struct, error
from typing import Final

from projector.domain import fact_keys
from projector.domain.entities import Member
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, Fact, decode_member

DIRECT: Final = "direct"
# Level, offset, timestamp, whether there is a sequence, and that.
_LAYOUT: Final = Struct("<BQQ?Q")


class PackedMemberships:
    """Facts by scope (a group or project) and user."""

    def __init__(self) -> None:
        self._scopes: dict[Key, dict[int, bytes]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Key]:
        for scope, users in self._scopes.items():
            for user in users:
                yield fact_keys.member_key(scope, user, DIRECT)

    def get(self, key: Key) -> AnyFact | None:
        """Return the fact of a membership, if it is packed."""
        scope, user = fact_keys.membership_of(key)
        packed = self._scopes.get(scope, {}).get(user)
        if packed is None or fact_keys.via_of(key) != DIRECT:
            return None
        return _unpack(packed)

    def put(self, key: Key, fact: AnyFact) -> bool:
        """Store the fact of a membership if it can be packed; else remove the one before."""
        scope, user = fact_keys.membership_of(key)
        if fact_keys.via_of(key) != DIRECT:
            return False
        if (packed := _pack(fact)) is None:
            self._discard(scope, user)
            return False
        users = self._scopes.setdefault(scope, {})
        self._count += user not in users
        users[user] = packed
        return True

    def discard(self, key: Key) -> None:
        """Remove the fact of a membership, if it is packed."""
        if fact_keys.via_of(key) == DIRECT:
            self._discard(*fact_keys.membership_of(key))

    def _discard(self, scope: Key, user: int) -> None:
        users = self._scopes.get(scope, {})
        self._count -= users.pop(user, None) is not None
        if not users:
            self._scopes.pop(scope, None)

    def of(self, scope: Key, user: int) -> tuple[Key, Member] | None:
        """Return the user's membership in exactly this group or project, with its key."""
        users = self._scopes.get(scope)
        packed = users.get(user) if users else None
        if packed is None:
            return None
        level, *_ = _LAYOUT.unpack(packed)
        return fact_keys.member_key(scope, user, DIRECT), Member(level)

    def within(self, scope: Key) -> Iterator[Key]:
        """Yield the keys in exactly this group or project; each may be removed meanwhile."""
        for user in list(self._scopes.get(scope, ())):
            yield fact_keys.member_key(scope, user, DIRECT)

    def load(self, fields: Mapping[bytes, bytes]) -> list[tuple[Key, bytes]]:
        """Store memberships of a checkpoint; return the other fields.

        As few Python steps for each as possible, and no dict of keys: a claim loads millions.
        """
        rest: list[tuple[Key, bytes]] = []
        # By the start of the key: many keys in a row belong to the same few large groups.
        users_by_prefix: dict[str, dict[int, bytes]] = {}
        for field, raw in fields.items():
            key = Key(field.decode())
            prefix, _, user_and_via = key.partition(fact_keys.USER)
            user, _, via = user_and_via.partition("/")
            packed = _pack(decode_member(raw)) if via == DIRECT else None
            if packed is None:
                rest.append((key, raw))
                continue
            users = users_by_prefix.get(prefix)
            if users is None:
                users = users_by_prefix[prefix] = self._begin_load(key)
            users[int(user)] = packed
        self._count += sum(map(len, users_by_prefix.values()))
        return rest

    def _begin_load(self, key: Key) -> dict[int, bytes]:
        """Return the users of a key's scope, which are counted once they are loaded."""
        scope, user = fact_keys.membership_of(key)
        if fact_keys.member_key(scope, user, DIRECT) != key:
            raise ValueError(f"the fact {key!r} is not a membership")
        users = self._scopes.setdefault(scope, {})
        self._count -= len(users)
        return users


def _pack(fact: AnyFact) -> bytes | None:
    """Return the numbers of a fact; None if there is more in it, or one is too large."""
    member = fact.data
    if (
        not isinstance(member, Member)
        or member.expires_at is not None
        or fact.sequence_offset is not None
        or fact.removal_offset is not None
    ):
        return None
    sequence = fact.sequence
    try:
        return _LAYOUT.pack(
            member.level, fact.offset, fact.timestamp, sequence is not None, sequence or 0
        )
    except error:
        return None


def _unpack(packed: bytes) -> AnyFact:
    level, offset, timestamp, has_sequence, sequence = _LAYOUT.unpack(packed)
    return Fact(offset, timestamp, sequence if has_sequence else None, Member(level))
