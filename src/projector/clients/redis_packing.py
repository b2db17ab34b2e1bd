"""Connections to Redis that pack commands in C.

redis-py packs the commands of its asyncio client in Python, argument by argument. That is a tenth
of the CPU of an event alone, and a third of a call that writes 100 views. hiredis, which parses
the answers already, packs three times as fast. It leans on `pack_command`, which redis-py calls for
each command, in a pipeline too. Only `str`, `bytes`, `int` and `float` are packed.
"""

from typing import Any, Protocol, TypeVar

import hiredis

from projector.clients.redis_batch import Argument


class _Connection(Protocol):
    def pack_command(self, *args: Any) -> list[bytes]: ...


T = TypeVar("T", bound=_Connection)


def packing_in_c(connection: type[T]) -> type[T]:
    """Return this class of connections with commands packed in C."""
    return type(connection.__name__, (_PacksInC, connection), {})


class _PacksInC:
    def pack_command(self, name: str, *args: Argument) -> list[bytes]:
        """Pack one command; its name may be two words, as in `SCRIPT LOAD`."""
        words = (*name.split(), *args)
        return [hiredis.pack_command(words)]  # type: ignore[arg-type]
