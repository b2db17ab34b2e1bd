"""The end of a process by signal, and stray cancellations."""

import asyncio
import os
import signal

import pytest

from projector.process import refuse_stray_cancellation, until_signalled


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_the_work_and_waits_for_it(number: signal.Signals) -> None:
    ended = []

    async def work() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async with asyncio.timeout(5):
        await until_signalled(work())
    assert ended


async def test_the_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await until_signalled(work())


async def test_work_that_is_cancelled_without_a_signal_is_cancelled() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await until_signalled(work())


async def cancelled_by_a_library() -> None:
    raise asyncio.CancelledError


async def test_a_cancellation_that_nobody_asked_for_is_an_error() -> None:
    """A task group takes a cancelled child for one that was asked to end, and goes on without."""
    with pytest.raises(RuntimeError, match="a library cancelled this task"):
        await refuse_stray_cancellation(cancelled_by_a_library())


async def test_a_cancellation_that_was_asked_for_is_one() -> None:
    working = asyncio.create_task(refuse_stray_cancellation(asyncio.sleep(60)))
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait({working})
    assert working.cancelled()


async def test_a_timeout_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await refuse_stray_cancellation(asyncio.sleep(60))
