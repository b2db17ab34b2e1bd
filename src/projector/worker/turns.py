"""Turns of a long piece of work, between which all other tasks of the worker run."""

import asyncio
from collections.abc import Collection, Iterator


async def in_turns(
    steps: Iterator[None], turn_s: float, interrupt: Collection[object] = ()
) -> None:
    """Take the steps, and yield to other tasks whenever they took longer than `turn_s`.

    Return early once `interrupt` is not empty; the caller may then take the other steps.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in steps:
        if interrupt:
            return
        if clock() - began > turn_s:
            await asyncio.sleep(0)
            began = clock()
