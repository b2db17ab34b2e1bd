"""Commands of the product as processes: forked, or each a new Python.

`forking` starts the fork server. Until it ends, `start` and `run` fork commands from that server.
Otherwise, with EXEC=1, and on systems other than Linux, each command is a new Python.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, Protocol

from tests.integration import fork_server

FOLDER: Final = Path(__file__).parents[2]


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class ForkServerClient:
    """Client of the fork server; sends one request at a time."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", fork_server.__name__, str(theirs.fileno())], cwd=FOLDER,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip

    def request(self, request: Mapping[str, Any], streams: Sequence[int] = ()) -> int:
        socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
        answer = self._channel.recv(fork_server.MESSAGE_BYTES)
        assert answer, f"the fork server ended with {self._server.wait()}"
        return int(answer)

    def close(self) -> None:
        self._channel.close()
        self._server.wait()


class ForkedProcess:
    """A forked command, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, forks: ForkServerClient, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fork_server = forks
        self._end = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            os.close(self._end)
            self.returncode = self._fork_server.request({"reap": self.pid})
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_fork_server: ForkServerClient | None = None


@contextmanager
def forking() -> Iterator[None]:
    """Fork commands until the block ends, unless EXEC=1."""
    global _fork_server  # noqa: PLW0603
    if sys.platform != "linux" or os.environ.get("EXEC"):
        yield
        return
    _fork_server = forks = ForkServerClient()
    try:
        yield
    finally:
        _fork_server = None
        forks.close()


@contextmanager
def not_forking() -> Iterator[None]:
    """Start a new Python for each command until the block ends."""
    global _fork_server  # noqa: PLW0603
    forks, _fork_server = _fork_server, None
    try:
        yield
    finally:
        _fork_server = forks


def start(
    module: str, arguments: Sequence[str], env: Mapping[str, str],
    stdout: IO[bytes], stderr: IO[bytes], stdin: IO[bytes] | None = None,
) -> Process:  # fmt: skip
    """Start `python -m module`."""
    if _fork_server is None:
        argv = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=dict(env))
    with open(os.devnull, "rb") as nothing:
        streams = [stream.fileno() for stream in (stdin or nothing, stdout, stderr)]
        request = {"argv": [module, *arguments], "env": dict(env), "cwd": os.getcwd()}
        return ForkedProcess(_fork_server, _fork_server.request(request, streams))


def run(
    module: str, arguments: Sequence[str], env: Mapping[str, str], stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` to its end."""
    if _fork_server is None:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], input=stdin, capture_output=True,
            text=True, env=dict(env), timeout=timeout, check=False,
        )  # fmt: skip
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        process = start(module, arguments, env, out, err, given)
        try:
            process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        output = out.read().decode(), err.read().decode()
        return subprocess.CompletedProcess([module, *arguments], process.returncode, *output)
