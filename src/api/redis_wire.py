"""A connection that redis-py has made, with its transport taken over by an `asyncio.Protocol`.

redis-py connects: with TLS, a password, a sentinel's primary, and the check of who the server is.
After that its streams, and a task for each call, would cost 2 us of a lookup where 32 share the
call. Here a command is written at once, and its reply is handed on as it comes.

Only lists are replies to a wire. An error, a push or the end of the connection ends it. The caller
then asks by redis-py's own way, which has an exception for each error.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

_MORE: Final = object()

# Called once: with the reply, or with None if the wire has ended without it.
OnReply = Callable[[list[Any] | None], None]


class Wire(asyncio.Protocol):
    """Sends commands whose reply is a list. Replies come in the order of the commands."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.Transport) -> None:
        self.connection = connection
        self.is_open = True
        self._transport = transport
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[OnReply] = deque()
        # redis-py waits for it when it closes the connection.
        self._former = transport.get_protocol()
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and no other server has answered since it was made."""
        return self.is_open and not self.connection.should_reconnect()  # type: ignore[no-untyped-call]

    def ask(self, command: bytes, on_reply: OnReply) -> None:
        """Send a packed command over an open wire."""
        # Before it waits: if this raises, there is no reply to come.
        self._transport.write(command)
        self._waiting.append(on_reply)

    def data_received(self, data: bytes) -> None:
        """Hand on the replies that are complete."""
        try:
            self._reader.feed(data)
            while self.is_open and (reply := self._reader.gets()) is not _MORE:
                # A push is a list of its own type.
                if type(reply) is not list or not self._waiting:
                    self.close()
                    return
                self._waiting.popleft()(reply)
        except hiredis.HiredisError:  # not the protocol of Redis
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wire, and let redis-py know."""
        self.close()
        self._former.connection_lost(exc)

    def close(self) -> None:
        """End the wire, and tell all that wait for a reply."""
        if not self.is_open:
            return
        self.is_open = False
        self._transport.abort()
        while self._waiting:
            self._waiting.popleft()(None)


async def take_over(connection: AbstractConnection) -> Wire | None:
    """Make a wire of a connection, or return None if it is not a plain stream of asyncio.

    Bytes that redis-py has read already would be lost.
    """
    writer = connection._writer
    if not isinstance(writer, asyncio.StreamWriter) or await connection.can_read():
        return None
    return Wire(connection, cast(asyncio.Transport, writer.transport))
