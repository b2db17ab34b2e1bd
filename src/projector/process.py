"""TCP ports and signals of this process."""

import asyncio
import errno
import signal
import socket
from collections.abc import Awaitable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
MAX_PORT: Final = 65535


def free_port(host: str = LOOPBACK) -> int:
    """Return a port that is free at present."""
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(address)
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether a server on this machine accepts connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def port_obstacle(port: int, host: str = LOOPBACK) -> str | None:
    """Return why a server cannot listen on the port, or None."""
    # The system's resolver would take 99999 for 34463, its lowest 16 bits.
    if not 0 <= port <= MAX_PORT:
        return f"port {port} does not exist: ports are 1 to {MAX_PORT}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use"
        return f"no server can listen on port {port} of {host} ({error.strerror})"
    return None


async def until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it on SIGINT or SIGTERM; raises the errors of `work`."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise


async def refuse_stray_cancellation(work: Awaitable[T]) -> T:
    """Await `work`; raise an error if it ends as cancelled although this task is not.

    A library may raise the cancellation of a task of its own. asyncio takes that for an end that
    was asked for, and whatever depends on `work` would stop silently.
    """
    try:
        return await work
    except asyncio.CancelledError as stray:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("a library cancelled this task; please report it") from stray
