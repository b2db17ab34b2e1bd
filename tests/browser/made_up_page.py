"""The operators' page over a status that a test makes up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette

from api.ops.auth import AccessRefusedError, LoopbackAccess
from api.ops.letter_groups import group_letters
from api.ops.partition_rows import fold_workers, listed_partitions
from api.ops.routes import Access, create_routes
from projector.operators.dead_letters.letters import LetterSummary
from projector.operators.status_model import Status
from projector.ports import free_port, is_listening
from tests.integration.servers import eventually
from tests.made_up_status import NOW_MS

LOOKUPS = {"200": 182_331, "401": 1_204, "503": 12}
# Revocations of the last eleven minutes; the 57 took long.
REVOCATIONS = (31, 44, 0, 0, 12, 57, 38, 0, 61, 40, 9)


class MadeUpSource:
    """The page's data, as a test sets it."""

    def __init__(self, current: Status) -> None:
        self.current = current
        self.found: list[LetterSummary] = []
        self.refused: AccessRefusedError | None = None
        self.minutes = [_minute(n, count) for n, count in enumerate(REVOCATIONS)]

    async def status(self, *, every_partition: bool) -> dict[str, Any]:
        if self.refused:
            raise self.refused
        now = self.current
        listed = now.partitions if every_partition else listed_partitions(now.partitions)
        return dict(msgspec.to_builtins(now)) | {
            "partitions": msgspec.to_builtins(listed),
            "workers": msgspec.to_builtins(fold_workers(now)),
            "now": now.at,
            "read_ago": 0.2,
            "minutes": self.minutes,
            "lookups": LOOKUPS,
        }

    async def letters(self) -> dict[str, Any]:
        groups = msgspec.to_builtins(group_letters(self.found))
        return {"groups": groups, "shown": len(self.found), "read_at": "2026-11-29T11:53:07+00:00"}

    async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
        raise NotImplementedError


def _minute(number: int, revocations: int) -> dict[str, Any]:
    slow = revocations == 57
    return {
        "minute": NOW_MS // 60_000 - len(REVOCATIONS) + 1 + number,
        "events": 40 * revocations + 300,
        "revocations": revocations,
        "p50": 0.012 if revocations else None,
        "p99": (2.4 if slow else 0.041) if revocations else None,
        "slowest": (2.6 if slow else 0.06) if revocations else None,
    }


@contextmanager
def serving(source: MadeUpSource, access: Access | None = None) -> Iterator[str]:
    """Serve the page on a loopback address; the value is its URL."""
    app = Starlette(routes=create_routes(access or LoopbackAccess(), source))
    config = uvicorn.Config(app, port=free_port(), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: is_listening(config.port), "the made-up page")
    try:
        yield f"http://127.0.0.1:{config.port}/ops/"
    finally:
        server.should_exit = True
        thread.join()
