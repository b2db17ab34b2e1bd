"""A fact: the newest accepted state of one entity, and its JSON in the checkpoint."""

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
    """The newest accepted state of one thing: where in Kafka it stood, and the data.

    Without data the thing was removed; it is kept for a while so that a late event cannot bring
    it back. `timestamp` is the record's, in milliseconds. `offset` is where the event ranks: its
    record's, or its original's if it was replayed.

    Like all things it is none of the garbage collector's business: data that came as JSON runs in
    no circle, and to go through millions of them takes seconds.
    """

    offset: int
    timestamp: int
    sequence: int | None = None
    data: T | None = None
    # Where the event with `sequence` ranks, if it is not the one at `offset`.
    sequence_offset: int | None = None
    # Where a group or project was last removed, if that is not what the event at `offset` did.
    removal_offset: int | None = None

    @property
    def sequenced_at(self) -> int:
        """Where the event ranks that brought `sequence`."""
        return self.offset if self.sequence_offset is None else self.sequence_offset

    @property
    def last_removal(self) -> int:
        """Where the thing was last removed, though it may have been set again; else `NEVER`."""
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
    """The fact as it stands in the checkpoint."""
    return msgspec.json.encode(fact)


def decode_fact(key: Key, raw: bytes) -> AnyFact:
    """The fact that `encode` wrote under `key`."""
    return cast(AnyFact, _DECODERS[fact_keys.kind_of(key)].decode(raw))
