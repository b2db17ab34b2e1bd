"""The latest dead letters, for as long as Kafka can be reached; no answer of the API needs them."""

import asyncio
import heapq
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka.errors import KafkaError

from projector.config.settings import Settings
from projector.errors import OperatorError, TemporaryError
from projector.operators import dead_letter_reader

LATEST: Final = 50
TIMEOUT_S: Final = 6.0


async def read(settings: Settings) -> dict[str, Any]:
    """`letters`, newest first, as `projector dead-letters list --json` has them, or an `error`."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return {"letters": await _latest(settings), "read_at": _now()}
    except OperatorError as error:
        reason = str(error)
    except (TemporaryError, KafkaError, OSError, TimeoutError) as error:
        reason = f"Kafka at {settings.kafka} cannot be reached from here ({type(error).__name__})"
    return {"error": reason, "read_at": _now()}


async def _latest(settings: Settings) -> list[dict[str, Any]]:
    async with dead_letter_reader.open_dead_letters(settings) as letters:
        # The letters themselves may be large; none is held longer than it takes to sum it up.
        found = [(one.timestamp, one.id, one.summary()) async for one in letters.read(LATEST)]
    return [summary for _, _, summary in heapq.nlargest(LATEST, found)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
