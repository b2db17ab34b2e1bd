"""The reader of a replication slot, on messages that are there at once."""

import asyncio
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest

from projector.gitlab.postgres.replication import Identity, Replication

READS: Final = 32
END: Final = 500


def data(message: bytes) -> bytes:
    return b"w" + bytes(24) + message


BEGIN = data(b"B" + struct.pack("!QqI", END - 1, 5, 6))
ORIGIN = data(b"O" + bytes(8) + b"\0")
COMMIT = data(b"C" + struct.pack("!BQQq", 0, END - 1, END, 7))


class OneMessageARead:
    """A connection whose socket has nothing more once all is read."""

    def __init__(self, messages: list[bytes]) -> None:
        self._coming = messages
        self._read: list[bytes] = []

    def messages(self) -> Iterator[bytes]:
        while self._read:
            yield self._read.pop(0)

    def read(self) -> None:
        self._read += self._coming[:1]
        del self._coming[:1]

    async def readable(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("count", [3, READS, READS + 1, 2 * READS])
async def test_what_the_last_of_many_reads_brings_waits_for_no_socket(count: int) -> None:
    connection: Any = SimpleNamespace(pgconn=None)
    replication = Replication(connection, Identity(7, 1, 150000), None)
    stream: Any = OneMessageARead([BEGIN, *[ORIGIN] * (count - 2), COMMIT])
    replication._stream = stream
    async with asyncio.timeout(5):
        piece = await anext(replication.pieces())
    assert piece.delivered == END
