"""wrk as the generator of lookups.

wrk takes CPU time from the server under test. So every run also has the server's CPU time for a
request, which depends far less on other programs.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct, json

from benchmarks.processes import CpuClock

SCRIPT: Final = Path(__file__).with_name("lookups.lua")
# So many callers with their own pauses are nearly an open loop: a slow answer delays one of them,
# and the others go on.
CALLERS: Final = 256


class Target(NamedTuple):
    """A server, its process, the number of its tokens, and a file of them if they are signed."""

    url: str
    pid: int
    tokens: int
    file: Path | None = None


class Answered(Struct):
    """The results of wrk; p50 and p99 in milliseconds."""

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
    """Send as many requests as the connections can, each for a random token."""
    return _run(target, connections, seconds, 0)


def ask_at(target: Target, rate: float, seconds: float) -> Answered:
    """Send about `rate` requests a second, by callers that pause for random times."""
    return _run(target, CALLERS, seconds, CALLERS / rate * 1000)


def _run(target: Target, connections: int, seconds: float, pause_ms: float) -> Answered:
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(SCRIPT)]
    files = [str(target.file)] if target.file else []
    with CpuClock(target.pid) as cpu:
        done = subprocess.run(
            [*argv, target.url, "--", str(target.tokens), str(pause_ms), *files],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    answered = json.decode(done.stdout.splitlines()[-1], type=Answered)
    if answered.refused or answered.broken:
        raise RuntimeError(f"{target.url}: {answered.refused} refused, {answered.broken} broken")
    answered.cpu = cpu.seconds / answered.requests * 1e6
    return answered
