"""The Kafka header with the position of the record that was replayed."""

import re
from typing import Final

from projector.events.model import BadEvent, KafkaRecord, ReplayPosition

# `<offset> <timestamp in ms>` of the original record.
HEADER: Final = "dead-letter-replays"
PATTERN: Final = "^([0-9]{1,19}) (-?[0-9]{1,19})$"
_POSITION: Final = re.compile(PATTERN)


def encode_position(position: ReplayPosition) -> tuple[str, bytes]:
    """Return the header for a record that replays the one at `position`."""
    return HEADER, f"{position.offset} {position.timestamp}".encode()


def decode_position(record: KafkaRecord) -> ReplayPosition | None:
    """Return the position that `record` replays; None if it is not a replay.

    Raises `BadEvent` if the header is malformed, or names an offset that is not before the record.
    """
    contents = [content or b"" for name, content in record.headers if name == HEADER]
    if not contents:
        return None
    match = _POSITION.fullmatch(contents[0].decode(errors="replace"))
    if match is None or len(contents) > 1:
        raise BadEvent(f"the header {HEADER} must be there once, with an offset and milliseconds")
    position = ReplayPosition(int(match[1]), int(match[2]))
    if position.offset >= record.offset:
        raise BadEvent(
            f"the header {HEADER} names offset {position.offset}, which is not before the record's "
            f"own offset {record.offset}"
        )
    return position
