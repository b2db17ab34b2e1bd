"""Verifications of job tokens that wait for their turn of the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from api.read_batcher import OverloadedError

# Up to 24 MB of tokens. Each open connection has at most one lookup under way, but those of clients
# that have gone wait too.
MAX_QUEUED: Final = 3_000


class VerificationQueue:
    """Calls one verification in each turn of the event loop.

    A verification takes up to 60 us of the only thread, and a lookup of a known token some five
    turns. A flood of forged tokens would put one verification of each connection into every turn.
    Here it delays a known token by one a turn, however many connections it has. The flood waits
    for itself.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, verify: Callable[[], None]) -> None:
        """Call `verify` once, in a later turn. Raises `OverloadedError`."""
        if len(self._waiting) >= MAX_QUEUED:
            raise OverloadedError(f"{MAX_QUEUED} verifications are waiting already")
        self._waiting.append(verify)
        if len(self._waiting) == 1:
            self._schedule()

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._call_next)

    def _call_next(self) -> None:
        verify = self._waiting.popleft()
        # Before the call: its error must not keep the others waiting.
        if self._waiting:
            self._schedule()
        verify()
