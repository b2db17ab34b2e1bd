"""The self-check: one kind after the other is compared as a whole."""

import asyncio
import itertools
from typing import Final, NoReturn

import structlog

from projector.gitlab import metrics
from projector.gitlab.mapping.due import EVERYTHING
from projector.gitlab.mapping.state import Mark, Remembered, State
from projector.gitlab.memory import Memory
from projector.gitlab.source import MAIN

log = structlog.get_logger()

# Every kind is compared once in this time, each in its turn: a comparison holds up the events.
INTERVAL_S: Final = 3600.0


async def check_forever(memory: Memory, interval_s: float = INTERVAL_S) -> NoReturn:
    """Compare everything with what was told, kind by kind, until cancelled.

    An event that is found is one that the bridge should have sent before. It is sent now.
    """
    for kind in EVERYTHING:
        metrics.MISSED.labels(kind)
    for kind in itertools.cycle(EVERYTHING):
        await asyncio.sleep(interval_s / len(EVERYTHING))
        await check_kind(memory, kind)
    raise RuntimeError("there are no kinds")


async def check_kind(memory: Memory, kind: str) -> int:
    """Compare everything of one kind; return the number of events that were missing."""

    def compare(state: State) -> Remembered:
        position = state.position(MAIN)
        with metrics.BATCH.labels("check").time():
            return state.recheck(kind, Mark(MAIN, position.lsn if position else 0, None))

    found = (await memory.change(compare)).events
    if found:
        metrics.MISSED.labels(kind).inc(found)
        log.error("self-check found missing events", kind=kind, events=found,
                  advice="they are sent now; please report it")  # fmt: skip
    return found
