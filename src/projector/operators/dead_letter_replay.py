"""Replays dead letters: checked as by a worker, and sent such that nothing later is overwritten."""

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
from projector.operators.dead_letter_reader import Letter, LetterId

MENDED: Final = "give the whole event, mended, with --event FILE"


class Replay(NamedTuple):
    """An event to be sent again, and where; without `rank` it comes as a new one."""

    letter: LetterId
    event: Event
    topic: Topic
    partition: int
    value: bytes
    headers: Headers
    rank: ReplayPosition | None


def prepare_replay(
    letter: Letter, mended: bytes | None, partitions: int, retention_ms: int, now: int
) -> Replay:
    """What replaying the letter at `now` (ms) would send; raises `BadEvent` if it must not be.

    `mended` is the event to send instead of the original.
    """
    original = letter.original()
    record = _as_it_was(letter, original) if mended is None else _mended(original, mended)
    try:
        event = decode_strictly(record)
    except BadEvent as error:
        raise error if mended else BadEvent(f"{error}{_advice(letter)}") from None
    if mended:
        _refuse_another_thing(original, record)
    topic, partition = _place(event, original.partition, partitions)
    rank: ReplayPosition | None = _rank(original)
    refuse_late(replace(event, replays=rank), record._replace(timestamp=now), retention_ms)
    if (topic, partition) != (original.topic, original.partition):
        _refuse_unordered(event, original, topic, partition)
        rank = None
    assert record.value is not None  # noqa: S101  an event was read from it
    return Replay(letter.id, event, topic, partition, record.value, record.headers, rank)


def _as_it_was(letter: Letter, original: KafkaRecord) -> KafkaRecord:
    kept = [letter.key, letter.value, *(content for _, content in letter.headers)]
    if any(REDACTED.encode() in (content or b"") for content in kept):
        raise BadEvent(f"something in it was redacted, perhaps a job token; {MENDED}")
    if letter.value is None:
        raise BadEvent(f"the letter has no value; {MENDED}")
    return original._replace(headers=letter.original_headers)


def _mended(original: KafkaRecord, mended: bytes) -> KafkaRecord:
    return original._replace(value=mended, headers=(CONTENT_TYPE,))


def _refuse_another_thing(original: KafkaRecord, mended: KafkaRecord) -> None:
    """Only where the original says what it was about; else whoever mends it has to know."""
    was, now = cloudevents.subject(original), cloudevents.subject(mended)
    if was not in (None, now):
        raise BadEvent(
            f"the original is about {was}, the mended event about {now}, which must not take its "
            "place; send that with `feed` as a new event"
        )


def _advice(letter: Letter) -> str:
    """Both may be why a kept original reads otherwise than it did."""
    if len(letter.value or b"") >= MAX_ORIGINAL_BYTES:
        return f" (the letter holds its first {MAX_ORIGINAL_BYTES} bytes only); {MENDED}"
    return f"; {MENDED}"


def _place(event: Event, own: int, partitions: int) -> tuple[Topic, int]:
    """Where the event belongs; a broadcast stays in its partition, for the others had their own."""
    partition = own if event.kind.broadcast else partition_of(event.root, partitions)
    if partition >= partitions:
        raise BadEvent(f"there is no partition {partition}; the topics have {partitions}")
    return event.kind.topic, partition


def _rank(original: KafkaRecord) -> ReplayPosition:
    """The original's place; if it was a replay itself, the place of what that replayed."""
    return replay_header.decode_position(original) or ReplayPosition(
        original.offset, original.timestamp
    )


def _refuse_unordered(event: Event, original: KafkaRecord, topic: Topic, partition: int) -> None:
    if event.sequence is None:
        raise BadEvent(
            f"{event.type} with partitionkey {event.root} belongs in {topic} partition {partition},"
            f" and the original was in {original.topic} partition {original.partition}; without a "
            "`sequence` nothing tells what there is older and what is newer. Send the present "
            "state as a new event"
        )


async def send_replays(prepared: list[Replay], settings: Settings) -> list[int]:
    """Send the replays in order, each acknowledged; the offsets that they got.

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
    rank = [replay_header.encode_position(replay.rank)] if replay.rank else []
    sent = await producer.send_and_wait(
        settings.topic(replay.topic),
        value=replay.value,
        key=replay.event.root.encode(),
        partition=replay.partition,
        headers=[*replay.headers, *rank],
    )
    return int(sent.offset)
