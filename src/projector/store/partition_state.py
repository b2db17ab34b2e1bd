"""What stands in Redis about one partition: who owns it, how far it has read, how fresh it is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from redis.asyncio import Redis

from projector.errors import DifferentRulesError
from projector.events.model import ROLES, Topic
from projector.store import schema
from projector.store.schema import Version

RULES: Final = {
    "minimum_level": "PROJECTOR_MINIMUM_ROLE",
    "tombstone_retention": "PROJECTOR_TOMBSTONE_RETENTION",
}


# What a checkpoint and a stamp are made of.
CHECKPOINT: Final = ("revision", "facts", "stamp", "stamp_epoch", *(f"offset:{t}" for t in Topic))
NUMBERS: Final = ("epoch", *CHECKPOINT, *RULES)


class PartitionState(NamedTuple):
    """The hash `allowed-agents:partition:{p}`.

    `version` is epoch and revision of the last checkpoint, `offsets` the next offset of each topic.
    `facts` is how many fields the checkpoint has, negative while it is being written in steps, and
    None if there is none. `stamp` is the moment (ms of Redis TIME) as of which the partition is
    fresh under `stamp_epoch`. `rules` are the settings of the worker that claimed it, as
    `Policy.rules` names them, as far as it left them.
    """

    owner: str
    version: Version
    offsets: dict[Topic, int]
    facts: int | None
    stamp: int | None
    stamp_epoch: int | None
    rules: Mapping[str, int] = MappingProxyType({})

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one, written to its end."""
        return self.facts is not None and self.facts >= 0

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> Self | None:
        """Read the hash's fields, None if there are none; ValueError where one is no number.

        Fields of other versions are left alone.
        """
        if not fields:
            return None
        held = {name.decode(errors="replace"): value for name, value in fields.items()}
        numbers = {name: int(held[name]) for name in NUMBERS if name in held}
        return cls(
            held.get("owner", b"").decode(errors="replace"),
            Version(numbers.get("epoch", 0), numbers.get("revision", 0)),
            {t: numbers[f"offset:{t}"] for t in Topic if f"offset:{t}" in numbers},
            numbers.get("facts"),
            numbers.get("stamp"),
            numbers.get("stamp_epoch"),
            {name: numbers[name] for name in RULES if name in numbers},
        )


def refuse_other_rules(partition: int, state: PartitionState, rules: Mapping[str, int]) -> None:
    """Raise `OtherRulesError` where the partition's worker goes by others than `rules`."""
    for name, value in rules.items():
        held = state.rules.get(name, value)
        if held != value:
            raise DifferentRulesError(
                f"the worker of partition {partition} has another {RULES[name]} than this command: "
                f"{_readable(name, held)} there, {_readable(name, value)} here; set it alike"
            )


def _readable(rule: str, value: int) -> str:
    if rule == "minimum_level":
        return next((role for role, level in ROLES.items() if level == value), "none")
    return f"{value / 1000:g} s"


async def read_partition_state(redis: Redis, partition: int) -> PartitionState | None:
    """The partition's state, None if no worker has claimed it yet; raises `RedisError`."""
    fields: dict[Any, Any] = await redis.hgetall(schema.partition_key(partition))
    return PartitionState.decode(fields)
