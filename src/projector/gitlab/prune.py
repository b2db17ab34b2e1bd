"""The removal of rows of environments whose builds have ended.

A stream brings a row when GitLab inserts it, also of a build that ended long ago: GitLab moves old
rows to another table. No event of such a build comes any more, so its row would stay for ever.
"""

import asyncio
from functools import partial
from typing import Final, NoReturn

import psycopg
import structlog

from projector.errors import NotReadyError, TemporaryError
from projector.gitlab.mapping.state import State
from projector.gitlab.mapping.tables import UNFINISHED_BUILD
from projector.gitlab.memory import Memory
from projector.gitlab.postgres.database import connect

log = structlog.get_logger()

INTERVAL_S: Final = 3600.0
# Builds of one question: it takes milliseconds, and the deletion holds up no batch for long.
_BUILDS: Final = 5000
# A build that is not there may be about to come: its row in the other database can be first.
_ENDED: Final = (
    "SELECT id FROM public.p_ci_builds WHERE id = ANY (%s)"
    f" AND NOT coalesce({UNFINISHED_BUILD}, false)"
)
_OUTAGES: Final = (psycopg.Error, TemporaryError, NotReadyError, OSError)


async def prune_forever(memory: Memory, dsn: str, interval_s: float = INTERVAL_S) -> NoReturn:
    """Prune the mirror, now and every interval; `dsn` is of the database with the builds."""
    while True:
        try:
            await prune(memory, dsn)
        except _OUTAGES as error:
            log.warning("could not ask for ended builds", error=type(error).__name__,
                        advice="the bridge asks again in an hour")  # fmt: skip
        await asyncio.sleep(interval_s)


async def prune(memory: Memory, dsn: str) -> int:
    """Forget what builds had that have ended; return their number."""
    last = found = 0

    def waiting(state: State) -> list[int]:
        return state.waiting_builds(last, _BUILDS)

    while builds := await memory.state.run(waiting):
        last = builds[-1]
        if ended := await asyncio.to_thread(read_ended, dsn, builds):
            await memory.change(partial(State.forget_builds, ended=ended))
            found += len(ended)
    return found


def read_ended(dsn: str, builds: list[int]) -> list[int]:
    """Return those of the builds that are there, and will not run any more."""
    with connect(dsn) as connection:
        return [build for (build,) in connection.execute(_ENDED, [builds])]
