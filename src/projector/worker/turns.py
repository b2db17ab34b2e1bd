"""Turns of a long piece of work, between which all other tasks of the worker run."""

import asyncio
from collections.abc import Iterator


async def in_turns(steps: Iterator[None], turn_s: float) -> None:
    """Take the steps, and yield to other tasks whenever they took longer than `turn_s`."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in steps:
        if clock() - began > turn_s:
            await asyncio.sleep(0)
            began = clock()
