"""The state of one partition in Redis: its claim, checkpoint, stamp and rules."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from redis.asyncio import Redis

from projector.clients import redis_batch
from projector.errors import DifferentRulesError
from projector.events.log_identity import LogIdentity
from projector.events.model import ROLES, Topic
from projector.store import schema
from projector.store.schema import Version
from projector.store.silent_source import SilentSource, decode_silent

# The settings that views depend on: fields of the hash with their variables.
RULES: Final = {
    "minimum_level": "PROJECTOR_MINIMUM_ROLE",
    "max_view_bytes": "PROJECTOR_MAX_VIEW_BYTES",
    "tombstone_retention": "PROJECTOR_TOMBSTONE_RETENTION",
}

_OFFSETS: Final = tuple(f"offset:{topic}" for topic in Topic)
_LOGS: Final = tuple(f"log:{topic}" for topic in Topic)
# The offset of job-lifecycle below which no first view is held back: at most the next offset.
# Before it the epoch of its owner: an older worker leaves what an owner before it has written.
SERVED_JOBS: Final = f"served:{Topic.JOB_LIFECYCLE}"
# The fields that say up to where, and in which log, the events are applied.
PLACES: Final = (*_OFFSETS, *_LOGS, SERVED_JOBS)
# The fields of a checkpoint and of a stamp.
CHECKPOINT: Final = ("revision", "facts", "stamp", "stamp_epoch", *PLACES)
NUMBERS: Final = ("epoch", "revision", "facts", "stamp", "stamp_epoch", *_OFFSETS, *RULES)


class PartitionState(NamedTuple):
    """The hash `allowed-agents:partition:{p}`.

    `version` is the epoch and revision of the last checkpoint, `offsets` the next offset of each
    topic. `facts` is the number of facts of the checkpoint: negative while the owner writes it in
    steps, None without one. The partition is fresh as of `stamp` (ms of Redis TIME), under
    `stamp_epoch`. `rules` are the settings of the worker that claimed it, named as in
    `Policy.rules`, `logs` the logs that the offsets belong to, `sources` those that its stamps wait
    for. Older workers did not store these. `silent` is the field of that name as it is stored.
    """

    owner: str
    version: Version
    offsets: dict[Topic, int]
    facts: int | None
    stamp: int | None
    stamp_epoch: int | None
    rules: Mapping[str, int] = MappingProxyType({})
    logs: Mapping[Topic, LogIdentity] = MappingProxyType({})
    sources: frozenset[str] | None = None
    silent: bytes | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a complete checkpoint."""
        return self.facts is not None and self.facts >= 0

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> Self | None:
        """Decode the hash's fields; None if there are none, `ValueError` for a malformed one.

        Fields of other versions of the product are ignored.
        """
        if not fields:
            return None
        stored = {name.decode(errors="replace"): value for name, value in fields.items()}
        numbers = {name: int(stored[name]) for name in NUMBERS if name in stored}
        return cls(
            stored.get("owner", b"").decode(errors="replace"),
            Version(numbers.get("epoch", 0), numbers.get("revision", 0)),
            {t: numbers[f"offset:{t}"] for t in Topic if f"offset:{t}" in numbers},
            numbers.get("facts"),
            numbers.get("stamp"),
            numbers.get("stamp_epoch"),
            {name: numbers[name] for name in RULES if name in numbers},
            {
                topic: LogIdentity.decode(stored[f"log:{topic}"].decode())
                for topic in Topic
                if f"log:{topic}" in stored
            },
            decode_sources(stored.get("sources")),
            stored.get("silent"),
        )

    def awaited(self, now_ms: float) -> SilentSource | None:
        """Return the silent source that a stamp waits for at this TIME of the server, if any."""
        return decode_silent(self.silent, now_ms)


def decode_sources(stored: bytes | None) -> frozenset[str] | None:
    """Decode the names of the sources that stamps wait for; None if an older worker claimed."""
    if stored is None:
        return None
    return frozenset(filter(None, stored.decode(errors="replace").split(",")))


def encode_places(
    offsets: Mapping[Topic, int],
    logs: Mapping[Topic, LogIdentity],
    epoch: int,
    served_jobs: int | None = None,
) -> dict[str, int | str]:
    """Encode the fields of a checkpoint's offsets and logs, under the epoch of its owner."""
    numbers: dict[str, int | str] = {f"offset:{topic}": at for topic, at in offsets.items()}
    if served_jobs is not None:
        numbers[SERVED_JOBS] = f"{epoch} {served_jobs}"
    return numbers | {f"log:{topic}": log.encode() for topic, log in logs.items()}


def refuse_other_rules(partition: int, state: PartitionState, rules: Mapping[str, int]) -> None:
    """Raise `DifferentRulesError` if the partition's worker uses other than these `rules`."""
    for name, value in rules.items():
        theirs = state.rules.get(name, value)
        if theirs != value:
            raise DifferentRulesError(
                f"the worker of partition {partition} has another {RULES[name]} than this command: "
                f"{_readable(name, theirs)} there, {_readable(name, value)} here; set it alike"
            )


def refuse_other_sources(partition: int, state: PartitionState, sources: Collection[str]) -> None:
    """Raise `DifferentRulesError` if stamps of the partition's worker wait for other sources."""
    if state.sources is not None and state.sources != frozenset(sources):
        theirs, ours = (",".join(sorted(names)) or "none" for names in (state.sources, sources))
        raise DifferentRulesError(
            f"the worker of partition {partition} has other PROJECTOR_SOURCES than this command: "
            f"{theirs} there, {ours} here; set it alike"
        )


def _readable(rule: str, value: int) -> str:
    if rule == "minimum_level":
        return next((role for role, level in ROLES.items() if level == value), "none")
    return f"{value} bytes" if rule == "max_view_bytes" else f"{value / 1000:g} s"


async def read_served_offsets(
    redis: Redis, partitions: Sequence[int], topic_ids: Mapping[Topic, str]
) -> list[dict[Topic, int]]:
    """Read the offsets below which the answers of each partition contain every event.

    `topic_ids` are those in Kafka, where they are known. A topic is left out if its offset is
    missing, malformed, or of a log with another id. job-lifecycle is at 0 unless the owner, by its
    epoch, has written `SERVED_JOBS`: older workers do not.
    Raises `RedisError`.
    """
    names = ("epoch", SERVED_JOBS, *_OFFSETS, *_LOGS)
    commands = [("HMGET", schema.partition_key(partition), *names) for partition in partitions]
    found = await redis_batch.execute(redis, commands)
    return [_served_offsets(each.value, topic_ids) for each in found]


def _served_offsets(values: object, topic_ids: Mapping[Topic, str]) -> dict[Topic, int]:
    if not isinstance(values, list):
        return {}
    epoch, jobs, *places = values
    offsets = {
        topic: int(at)
        for topic, at, log in zip(Topic, places[: len(Topic)], places[len(Topic) :], strict=True)
        if at is not None and at.isdigit() and not _is_other(log, topic_ids.get(topic, ""))
    }
    by, _, served = (jobs or b"").partition(b" ")
    unheld = int(served) if by == epoch and served.isdigit() else 0
    if unheld < offsets.get(Topic.JOB_LIFECYCLE, 0):
        offsets[Topic.JOB_LIFECYCLE] = unheld
    return offsets


def _is_other(log: bytes | None, topic_id: str) -> bool:
    """Whether the stored log is another one than that with this id, or malformed."""
    if log is None:
        return False
    try:
        return LogIdentity.decode(log.decode()).is_of_another(topic_id)
    except ValueError:
        return True


async def read_partition_state(redis: Redis, partition: int) -> PartitionState | None:
    """Read the partition's state; None before its first claim. Raises `RedisError`."""
    fields: dict[Any, Any] = await redis.hgetall(schema.partition_key(partition))
    return PartitionState.decode(fields)
