"""The two-way COPY of a replication connection: messages in, messages out."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import errors

from projector.errors import SnapshotNeededError

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
# The slot or its publication is gone, or PostgreSQL has removed WAL that the slot needs. A
# publication is looked up as of each change, so one made anew is of no use to the slot.
LOST: Final = (errors.UndefinedObject, errors.ObjectNotInPrerequisiteState, errors.UndefinedFile)


class CopyBoth:
    """The messages of a connection on which replication was started."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection.pgconn

    def messages(self) -> Iterator[bytes]:
        """Yield the messages that have been read; raises an error where the stream has ended."""
        while True:
            size, message = self._connection.get_copy_data(1)
            if size == 0:
                return
            if size < 0:
                raise self._end()
            yield bytes(message)

    def read(self) -> None:
        """Read what has arrived, some 64 KiB at most, without waiting."""
        self._connection.consume_input()

    def send(self, message: bytes) -> None:
        """Send a message, without waiting for room: PostgreSQL reads as it writes."""
        self._connection.put_copy_data(message)
        self._connection.flush()

    async def readable(self) -> None:
        """Wait until there is something to read."""
        loop, socket = asyncio.get_running_loop(), self._connection.socket
        ready = asyncio.Event()
        loop.add_reader(socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(socket)

    def _end(self) -> Exception:
        result = self._connection.get_result()
        if result is None or not result.error_message:
            return psycopg.OperationalError("PostgreSQL has ended the stream")
        error = errors.error_from_result(result)
        if isinstance(error, LOST):
            return SnapshotNeededError(str(error.diag.message_primary))
        return error
