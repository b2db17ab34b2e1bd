"""Heartbeats of sources: their data, and the decoder from records of the topic `sources`.

A heartbeat vouches: everything that happened in the source before the acknowledgement of the
sender's heartbeat `after` is in Kafka, below the `offsets`.
"""

from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from projector.events import redaction
from projector.events.cloudevents import Envelope, from_wire, read_data, read_envelope
from projector.events.header_attributes import is_binary
from projector.events.model import (
    EVENT_TYPES,
    HEARTBEAT,
    SOURCE_PATTERN,
    SOURCES,
    BadEvent,
    SourceRecord,
    Topic,
    without_prefix,
)
from projector.events.partitioning import MAX_PARTITIONS

MAX_OFFSET: Final = 2**63 - 1

SourceName = Annotated[str, Meta(pattern=SOURCE_PATTERN)]
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
# The next offset of each partition, in the order of their numbers.
NextOffsets = Annotated[list[Offset], Meta(min_length=1, max_length=MAX_PARTITIONS)]


class SourceOffsets(Struct, frozen=True):
    """The next offset of every partition of the three topics, as a sender has them from Kafka."""

    membership: NextOffsets
    agent_config: NextOffsets = msgspec.field(name=Topic.AGENT_CONFIG.value)
    job_lifecycle: NextOffsets = msgspec.field(name=Topic.JOB_LIFECYCLE.value)


class SourceHeartbeat(Struct, frozen=True):
    """A source is alive; `after` is the offset of the same sender's heartbeat before this one.

    Everything that happened in the source before Kafka acknowledged that one is below `offsets`.
    Without `after` it is a sender's first heartbeat, and vouches for nothing.
    """

    source: SourceName
    offsets: SourceOffsets
    after: Offset | None = None


class Heartbeat(NamedTuple):
    """A valid heartbeat, and its own offset in `sources`."""

    source: str
    offset: int
    after: int | None
    offsets: Mapping[Topic, list[int]]

    def next_offsets(self, partition: int) -> dict[Topic, int]:
        """Return the offsets of one partition, below which all lies that it vouches for."""
        return {topic: offsets[partition] for topic, offsets in self.offsets.items()}


class UntrueHeartbeatError(BadEvent):
    """A heartbeat that cannot be true; the message is the reason, one sentence."""


class HeartbeatEnvelope(Envelope, frozen=True):
    """The CloudEvents attributes of a heartbeat; `partitionkey` is the source's name."""

    partitionkey: SourceName | None = None


_ENVELOPE: Final = msgspec.json.Decoder(HeartbeatEnvelope, dec_hook=from_wire)
_DATA: Final = msgspec.json.Decoder(SourceHeartbeat)


def decode_heartbeat(record: SourceRecord, partitions: int) -> Heartbeat:
    """Decode and check the heartbeat that `record` carries, for topics of so many `partitions`.

    Raises `BadEvent`, and `UntrueHeartbeatError` if `after` is not below the record's own offset.
    """
    binary = is_binary(record.headers)
    envelope = read_envelope(record, binary, _ENVELOPE)
    _check_type(envelope.type)
    data = read_data(envelope.data, binary, _DATA)
    _check_name(record.key, envelope.partitionkey, data.source)
    offsets = {
        Topic.MEMBERSHIP: data.offsets.membership,
        Topic.AGENT_CONFIG: data.offsets.agent_config,
        Topic.JOB_LIFECYCLE: data.offsets.job_lifecycle,
    }
    _check_partitions(offsets, partitions)
    if data.after is not None and data.after >= record.offset:
        raise UntrueHeartbeatError(
            f"`data.after` is {data.after}, but this heartbeat has the offset {record.offset} "
            "itself; send the offset of the heartbeat before"
        )
    return Heartbeat(data.source, record.offset, data.after, offsets)


def _check_type(name: str) -> None:
    short = without_prefix(name)
    if short in EVENT_TYPES:
        topic = EVENT_TYPES[short].topic
        raise BadEvent(f"{short} is an event; it belongs in the topic {topic}, not in {SOURCES}")
    if short != HEARTBEAT:
        given = redaction.redact_text(name)[:100]
        raise BadEvent(f"unknown type {given!r}; the topic {SOURCES} takes {HEARTBEAT} alone")


def _check_name(key: bytes | None, partitionkey: str | None, source: str) -> None:
    if key != source.encode():
        reason = "the record has no key" if key is None else "the record's key is another"
        raise BadEvent(f"{reason}; it must be the source's name, {source!r}")
    if partitionkey not in (None, source):
        raise BadEvent(f"`event.partitionkey` must be the source's name, {source!r}, or left out")


def _check_partitions(offsets: Mapping[Topic, list[int]], partitions: int) -> None:
    for topic, found in offsets.items():
        if len(found) != partitions:
            raise BadEvent(
                f"`data.offsets.{topic}` has {len(found)} offsets, but the topic has {partitions} "
                "partitions"
            )
