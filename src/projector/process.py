"""Signals that end this process, and stray cancellations."""

import asyncio
import signal
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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
