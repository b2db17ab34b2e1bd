"""Whether a worker's two event loops turn, for the supervisor that restarts it."""

import asyncio
import time
from typing import Any, Final

from projector.kafka.faust_consumer import ShortPollThread

# A loop that has not turned for so long is stuck: no step of it takes a tenth.
TURN_S: Final = 2.0


async def read_liveness(thread: ShortPollThread) -> tuple[int, dict[str, Any]]:
    """Return the status, 200 or 503, and the body of `/health/live`.

    The worker's own loop turns if it answers at all. Faust's consumer has a loop in a thread of its
    own, which sends the heartbeats to Kafka. A missing heartbeat alone is not a reason to restart
    the worker: it is missing while Kafka is away, which a restart does not repair.
    """
    heartbeat = None if thread.heartbeat_at is None else time.monotonic() - thread.heartbeat_at
    body: dict[str, Any] = {
        "status": "live",
        "last_heartbeat_s": None if heartbeat is None else round(heartbeat, 3),
    }
    if await _turns(thread.thread_loop):
        return 200, body
    reason = f"the loop of Faust's consumer has not turned for {TURN_S:g} s; restart the worker"
    return 503, {**body, "status": "not live", "reason": reason}


async def _turns(loop: asyncio.AbstractEventLoop) -> bool:
    turned = asyncio.Event()
    here = asyncio.get_running_loop()
    try:
        loop.call_soon_threadsafe(lambda: here.call_soon_threadsafe(turned.set))
        async with asyncio.timeout(TURN_S):
            await turned.wait()
    except (RuntimeError, TimeoutError):  # the first if the loop is closed
        return False
    return True
