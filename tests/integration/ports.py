"""Free ports for servers of tests that run side by side."""

import os
import random
from typing import Final

from projector.ports import obstacle

# Of every block of so many ports each process that runs tests has one.
PROCESSES: Final = 32
OWN: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
# Linux gives clients ports from 32,768 on: one could take a port before its server does.
BLOCKS: Final = range(10_000 // PROCESSES, 32_000 // PROCESSES)

_dice: Final = random.SystemRandom()
_given: Final[set[int]] = set()


def free_port() -> int:
    """Choose a port that is free, and that no other test gets."""
    while True:
        port = _dice.choice(BLOCKS) * PROCESSES + OWN
        if port not in _given and obstacle(port) is None:
            _given.add(port)
            return port
