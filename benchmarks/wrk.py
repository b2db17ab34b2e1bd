"""wrk as the generator of lookups.

Its own work takes a part of the machine that the server under test does not get, so every run also
says what CPU time the server spent on a request: that depends far less on who else is running.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct, json

from benchmarks.processes import CpuClock

SCRIPT: Final = Path(__file__).with_name("lookups.lua")
# So many callers with pauses of their own are nearly an open loop: a slow answer holds one of them
# back, and the others keep asking.
CALLERS: Final = 256


class Target(NamedTuple):
    """A server that is asked, its process, and how many tokens it is asked for."""

    url: str
    pid: int
    tokens: int


class Answered(Struct):
    """What wrk saw; p50 and p99 in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int
    # Microseconds of the server's CPU time for each request.
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def require() -> None:
    """Raise `RuntimeError` if wrk is not installed."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; with Debian: apt-get install wrk")


def ask(target: Target, connections: int, seconds: float) -> Answered:
    """As many requests as the connections can make, each for a random token."""
    return _run(target, connections, seconds, 0)


def ask_at(target: Target, rate: float, seconds: float) -> Answered:
    """Requests at about `rate` a second, by callers who pause for a random time in between."""
    return _run(target, CALLERS, seconds, CALLERS / rate * 1000)


def _run(target: Target, connections: int, seconds: float, pause_ms: float) -> Answered:
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(SCRIPT)]
    with CpuClock(target.pid) as cpu:
        done = subprocess.run(
            [*argv, target.url, "--", str(target.tokens), str(pause_ms)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    answered = json.decode(done.stdout.splitlines()[-1], type=Answered)
    if answered.refused or answered.broken:
        raise RuntimeError(f"{target.url}: {answered.refused} refused, {answered.broken} broken")
    answered.cpu = cpu.seconds / answered.requests * 1e6
    return answered
