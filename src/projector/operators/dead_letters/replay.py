"""Replays of dead letters: checked as by a worker, at the position of the original record."""

from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events import cloudevents, replay_header
from projector.events.late_events import refuse_late
from projector.events.model import BadEvent, Event, KafkaRecord, ReplayPosition, Topic
from projector.events.partitioning import partition_of
from projector.events.redaction import REDACTED, Headers
from projector.feed.event_file import decode_strictly
from projector.feed.producer import CONTENT_TYPE, MAX_REQUEST_BYTES
from projector.kafka.dead_letters import MAX_ORIGINAL_BYTES
from projector.operators.dead_letters.letters import Letter, LetterId

GIVE_CORRECTED: Final = "give the whole event, corrected, with --event FILE"


class Replay(NamedTuple):
    """An event to send again; without `position` it is sent as a new one."""

    letter: LetterId
    event: Event
    topic: Topic
    partition: int
    value: bytes
    headers: Headers
    position: ReplayPosition | None


def prepare_replay(  # noqa: PLR0913  the operator's choices, and the bounds of the deployment
    letter: Letter,
    corrected: bytes | None,
    partitions: int,
    retention_ms: int,
    now: int,
    *,
    as_new: bool = False,
) -> Replay:
    """Prepare a replay of the letter at `now` (ms); raises `BadEvent` if it must not be sent.

    `corrected` is the event to send instead of the original. With `as_new` the event ranks as one
    that is sent now: by its `sequence`, or without one behind all that came before it.
    """
    original = letter.original()
    if corrected is None:
        record = _unchanged(letter, original)
    else:
        record = original._replace(value=corrected, headers=(CONTENT_TYPE,))
    try:
        event = decode_strictly(record)
    except BadEvent as error:
        raise error if corrected else BadEvent(f"{error}{_advice(letter)}") from None
    if corrected:
        _refuse_another_entity(original, record)
    topic, partition = _target(event, original.partition, partitions)
    position = None if as_new else _position(original)
    refuse_late(replace(event, replays=position), record._replace(timestamp=now), retention_ms)
    if position and (topic, partition) != (original.topic, original.partition):
        _refuse_unordered(letter.id, event, original, (topic, partition))
        position = None
    assert record.value is not None  # noqa: S101  an event was read from it
    return Replay(letter.id, event, topic, partition, record.value, record.headers, position)


def _unchanged(letter: Letter, original: KafkaRecord) -> KafkaRecord:
    kept = [letter.key, letter.value, *(content for _, content in letter.headers)]
    if any(REDACTED.encode() in (content or b"") for content in kept):
        raise BadEvent(f"something in it was redacted, perhaps a job token; {GIVE_CORRECTED}")
    if letter.value is None:
        raise BadEvent(f"the letter has no value; {GIVE_CORRECTED}")
    return original._replace(headers=letter.original_headers)


def _refuse_another_entity(original: KafkaRecord, corrected: KafkaRecord) -> None:
    """Compare the entities, if the original's can be read; else the operator decides."""
    was, now = cloudevents.subject(original), cloudevents.subject(corrected)
    if was not in (None, now):
        raise BadEvent(
            f"the original is about {was}, the corrected event about {now}, which must not "
            "replace it; send that with `feed` as a new event"
        )


def _advice(letter: Letter) -> str:
    """Name the correction, and the truncation if the original may have been longer."""
    if len(letter.value or b"") >= MAX_ORIGINAL_BYTES:
        return f" (the letter holds its first {MAX_ORIGINAL_BYTES} bytes only); {GIVE_CORRECTED}"
    return f"; {GIVE_CORRECTED}"


def _target(event: Event, own: int, partitions: int) -> tuple[Topic, int]:
    """Return the event's topic and partition; a broadcast stays in the original's partition."""
    partition = own if event.kind.broadcast else partition_of(event.root, partitions)
    if partition >= partitions:
        raise BadEvent(f"there is no partition {partition}; the topics have {partitions}")
    return event.kind.topic, partition


def _position(original: KafkaRecord) -> ReplayPosition:
    """Return the original's position; for a replay, the position of the record replayed."""
    return replay_header.decode_position(original) or ReplayPosition(
        original.offset, original.timestamp
    )


def _refuse_unordered(
    letter: LetterId, event: Event, original: KafkaRecord, target: tuple[Topic, int]
) -> None:
    if event.sequence is None:
        topic, partition = target
        raise BadEvent(
            f"{event.type} with partitionkey {event.root} belongs in {topic} partition {partition},"
            f" and the original was in {original.topic} partition {original.partition}; without a "
            "`sequence` it cannot be ordered among the events there. If upstream still has this "
            f"state, send it as a new event: projector dead-letters replay {letter} --as-new"
        )


async def send_replays(prepared: list[Replay], settings: Settings) -> list[int]:
    """Send the replays in order, each acknowledged, and return their offsets.

    Raises `KafkaError`.
    """
    producer = AIOKafkaProducer(
        **kafka.client_arguments(settings), acks="all", max_request_size=MAX_REQUEST_BYTES
    )
    try:
        await producer.start()
        return [await _send(producer, settings, replay) for replay in prepared]
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, settings: Settings, replay: Replay) -> int:
    position = [replay_header.encode_position(replay.position)] if replay.position else []
    sent = await producer.send_and_wait(
        settings.topic(replay.topic),
        value=replay.value,
        key=replay.event.root.encode(),
        partition=replay.partition,
        headers=[*replay.headers, *position],
    )
    return int(sent.offset)
