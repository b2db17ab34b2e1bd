"""The clock of the Redis in memory, which a test may let jump."""

import time
from types import SimpleNamespace

import pytest
from fakeredis._socket import _base
from fakeredis.commands_mixins import server_mixin

from projector.clients import trusted_clock

# Time enough for several probes of the tests' owners.
HOLD_S = 0.3


class RedisClock:
    """TIME and expiries of every Redis in memory, `ahead` seconds from this machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        clock = SimpleNamespace(time=lambda: time.time() + self.ahead)
        monkeypatch.setattr(server_mixin, "time", clock)
        monkeypatch.setattr(_base, "time", clock)
        monkeypatch.setattr(trusted_clock, "HOLD_S", HOLD_S)
