"""Free ports for the servers of tests that run in parallel."""

import os
import random
import socket
from typing import Final

from projector.ports import LOOPBACK

# Each block has one port for each process of pytest.
PROCESSES: Final = 32
OWN: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
# Linux gives clients ports from 32,768 on: one could take a port before its server does.
BLOCKS: Final = range(10_000 // PROCESSES, 32_000 // PROCESSES)

_dice: Final = random.SystemRandom()
_given: Final[set[int]] = set()


def free_port() -> int:
    """Choose a free port that no other test gets."""
    while True:
        port = _dice.choice(BLOCKS) * PROCESSES + OWN
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
