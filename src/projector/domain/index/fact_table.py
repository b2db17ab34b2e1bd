"""All facts of one partition by key."""

from collections.abc import Iterator, Mapping
from itertools import chain

from projector.domain import fact_keys
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, decode_fact
from projector.domain.index.packed_memberships import PackedMemberships


class FactTable:
    """Facts by key as in a dict, of which most memberships are packed.

    `unpacked` has all others: every fact that is not a membership, and every fact that time alone
    may change.
    """

    def __init__(self) -> None:
        self.unpacked: dict[Key, AnyFact] = {}
        self.packed = PackedMemberships()

    def __len__(self) -> int:
        return len(self.unpacked) + len(self.packed)

    def __iter__(self) -> Iterator[Key]:
        return chain(self.unpacked, self.packed)

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def __getitem__(self, key: Key) -> AnyFact:
        if (fact := self.get(key)) is None:
            raise KeyError(key)
        return fact

    def get(self, key: Key) -> AnyFact | None:
        """Return the fact under `key`."""
        fact = self.unpacked.get(key)
        if fact is None and fact_keys.MEMBER in key:
            return self.packed.get(key)
        return fact

    def __setitem__(self, key: Key, fact: AnyFact) -> None:
        if fact_keys.MEMBER in key and self.packed.put(key, fact):
            self.unpacked.pop(key, None)
        else:
            self.unpacked[key] = fact

    def __delitem__(self, key: Key) -> None:
        if self.unpacked.pop(key, None) is None:
            if key not in self:
                raise KeyError(key)
            self.packed.discard(key)

    def items(self) -> Iterator[tuple[Key, AnyFact]]:
        """Yield every fact with its key."""
        yield from self.unpacked.items()
        for key in self.packed:
            yield key, self[key]

    def load(self, fields: Mapping[bytes, bytes]) -> Iterator[tuple[Key, AnyFact]]:
        """Load a part of a checkpoint, which may repeat facts; yield what is not packed.

        Raises `ValueError` or `LookupError` for a field that is not a fact's.
        """
        for key, raw in self.packed.load(fields):
            if key not in self.unpacked:
                fact = self.unpacked[key] = decode_fact(key, raw)
                yield key, fact
