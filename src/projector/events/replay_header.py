"""The header by which a replayed event keeps its original's place among all others."""

import re
from typing import Final

from projector.events.model import BadEvent, KafkaRecord, ReplayPosition

# `<offset> <timestamp in ms>` of the record that the replayed one stands for.
HEADER: Final = "dead-letter-replays"
PATTERN: Final = "^([0-9]{1,19}) (-?[0-9]{1,19})$"
_RANK: Final = re.compile(PATTERN)


def encode_position(rank: ReplayPosition) -> tuple[str, bytes]:
    """The header of a record that replays the one at `rank`."""
    return HEADER, f"{rank.offset} {rank.timestamp}".encode()


def decode_position(record: KafkaRecord) -> ReplayPosition | None:
    """What `record` replays; None if it is no replay.

    Raises `BadEvent` if that cannot be read, or is not older than the record itself.
    """
    contents = [content or b"" for name, content in record.headers if name == HEADER]
    if not contents:
        return None
    match = _RANK.fullmatch(contents[0].decode(errors="replace"))
    if match is None or len(contents) > 1:
        raise BadEvent(f"the header {HEADER} must be there once, with an offset and milliseconds")
    rank = ReplayPosition(int(match[1]), int(match[2]))
    if rank.offset >= record.offset:
        raise BadEvent(
            f"the header {HEADER} names offset {rank.offset}, which is not before the record's own "
            f"offset {record.offset}"
        )
    return rank
