"""A fact, the newest accepted state of one entity, and its JSON in the checkpoint."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from projector.domain import entities, fact_keys
from projector.domain.entities import Entity
from projector.domain.fact_keys import Key

T = TypeVar("T", bound=Entity)

# Before every offset.
NEVER: Final = -1


class Fact(Struct, Generic[T], frozen=True, omit_defaults=True, gc=False):
    """The newest accepted state of one entity, and the position of its event in Kafka.

    Without data the entity is removed. The fact is kept for a while, so that a late event cannot
    bring the entity back. `timestamp` is the record's, in milliseconds. `offset` is the position
    of the event: that of its record, or of the original record if it was replayed.

    Not tracked by the garbage collector (`gc=False`): data decoded from JSON has no cycles, and
    traversing millions of facts takes seconds.
    """

    offset: int
    timestamp: int
    sequence: int | None = None
    data: T | None = None
    # The position of the event with `sequence`, if it is not the one at `offset`.
    sequence_offset: int | None = None
    # The position of a group's or project's last removal, if it is not the event at `offset`.
    removal_offset: int | None = None

    @property
    def sequenced_at(self) -> int:
        """The position of the event that brought `sequence`."""
        return self.offset if self.sequence_offset is None else self.sequence_offset

    @property
    def last_removal(self) -> int:
        """The position of the last removal, also if the entity was set again; else `NEVER`."""
        if self.removal_offset is not None:
            return self.removal_offset
        return self.offset if self.data is None else NEVER


AnyFact = Fact[Entity]


_DECODERS: Final = {
    kind: msgspec.json.Decoder(Fact[data])  # type: ignore[valid-type]
    for kind, data in entities.ENTITY_KINDS.items()
}


decode_member: Final = cast(Callable[[bytes], Any], _DECODERS["member"].decode)


def encode_fact(fact: AnyFact) -> bytes:
    """Encode a fact for the checkpoint."""
    return msgspec.json.encode(fact)


def decode_fact(key: Key, raw: bytes) -> AnyFact:
    """Decode the fact that `encode_fact` wrote under `key`."""
    return cast(AnyFact, _DECODERS[fact_keys.kind_of(key)].decode(raw))


def is_same_json(one: object, other: object) -> bool:
    """Return whether both encode alike: 0 equals false in Python, but not in GitLab's rules."""
    return one == other and msgspec.json.encode(one) == msgspec.json.encode(other)
