"""wrk as the generator of lookups, and of requests with events.

wrk takes CPU time from the server under test. So every run also has the server's CPU time for a
request, which depends far less on other programs.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct, json

from benchmarks.processes import CpuClock

LOOKUPS: Final = Path(__file__).with_name("lookups.lua")
POSTS: Final = Path(__file__).with_name("posts.lua")
# So many callers with their own pauses are nearly an open loop: a slow answer delays one of them,
# and the others go on.
CALLERS: Final = 256


class Target(NamedTuple):
    """A server, its process, the number of its tokens, and a file of them if they are signed."""

    url: str
    pid: int
    tokens: int
    file: Path | None = None


class Posts(NamedTuple):
    """The media type of requests, and a file with a token, a space and a body in each line."""

    media_type: str
    file: Path


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
    return _ask(target, connections, seconds, 0)


def ask_at(target: Target, rate: float, seconds: float) -> Answered:
    """Send about `rate` requests a second, by callers that pause for random times."""
    return _ask(target, CALLERS, seconds, CALLERS / rate * 1000)


def _ask(target: Target, connections: int, seconds: float, pause_ms: float) -> Answered:
    files = [target.file] if target.file else []
    options = target.tokens, pause_ms, *files
    return _run(target.url, target.pid, connections, seconds, LOOKUPS, *options)


def post(url: str, pid: int, connections: int, seconds: float, posts: Posts) -> Answered:
    """Send the requests in turn, as many as the connections can."""
    return _run(url, pid, connections, seconds, POSTS, posts.media_type, posts.file)


def _run(
    url: str, pid: int, connections: int, seconds: float, script: Path, *options: object
) -> Answered:
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    with CpuClock(pid) as cpu:
        done = subprocess.run(
            [*argv, url, "--", *map(str, options)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"wrk {url}: {done.stderr}")
    answered = json.decode(done.stdout.splitlines()[-1], type=Answered)
    if answered.refused or answered.broken:
        raise RuntimeError(f"{url}: {answered.refused} refused, {answered.broken} broken")
    answered.cpu = cpu.seconds / answered.requests * 1e6
    return answered
