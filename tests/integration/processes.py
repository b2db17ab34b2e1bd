"""Commands of the product as processes, forked from one that has imported it all.

Python takes half a second of CPU to import the product, and the tests start it a thousand times.
`forking` starts a process that does that once; each command is then a child of it. From there on
a child is a process like any other: it has its own environment, folder and standard streams, runs
`python -m` to the end of its interpreter, and signals, exit codes and kill -9 are the kernel's.

What that leans on: the server has a single thread, and nothing that it imports reads the
environment that a test changes. Where that is not so (PROMETHEUS_MULTIPROC_DIR), and where the
start itself is tested, use the fixture `real_processes`. EXEC=1 makes every process a real one.
Without `forking`, as in the fault suite and the benchmarks, and elsewhere than on Linux they are.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, Protocol

REPOSITORY: Final = Path(__file__).parents[2]
REQUEST_BYTES: Final = 128 * 1024
# What the product imports by name, and late.
LATE: Final = (
    "faust.transport.drivers.aiokafka", "faust.web.drivers.aiohttp", "uvicorn.loops.uvloop",
    "uvicorn.lifespan.on",
)  # fmt: skip


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Forks:
    """The server's other end: one request at a time, answered at once."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())], cwd=REPOSITORY,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip

    def ask(self, request: Mapping[str, Any], streams: Sequence[int] = ()) -> int:
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
            return int(self._channel.recv(REQUEST_BYTES))

    def close(self) -> None:
        self._channel.close()
        self._server.wait()


class Child:
    """A child of the server; as with `subprocess.Popen`, it is there until it is waited for."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forks = forks
        self._end = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            os.close(self._end)
            self.returncode = self._forks.ask({"reap": self.pid})
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


_forks: Forks | None = None


@contextmanager
def forking() -> Iterator[None]:
    """From here to the end of the block commands are forked, unless EXEC=1."""
    global _forks  # noqa: PLW0603
    if sys.platform != "linux" or os.environ.get("EXEC"):
        yield
        return
    _forks = forks = Forks()
    try:
        yield
    finally:
        _forks = None
        forks.close()


@contextmanager
def not_forking() -> Iterator[None]:
    """To the end of the block commands are real processes."""
    global _forks  # noqa: PLW0603
    forks, _forks = _forks, None
    try:
        yield
    finally:
        _forks = forks


def start(
    module: str, arguments: Sequence[str], env: Mapping[str, str],
    stdout: IO[bytes], stderr: IO[bytes], stdin: IO[bytes] | None = None,
) -> Process:  # fmt: skip
    """Start `python -m module`."""
    if _forks is None:
        argv = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=dict(env))
    with open(os.devnull, "rb") as nothing:
        streams = [stream.fileno() for stream in (stdin or nothing, stdout, stderr)]
        what = {"argv": [module, *arguments], "env": dict(env), "cwd": os.getcwd()}
        return Child(_forks, _forks.ask(what, streams))


def run(
    module: str, arguments: Sequence[str], env: Mapping[str, str], stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` to its end."""
    if _forks is None:
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
        said = out.read().decode(), err.read().decode()
        return subprocess.CompletedProcess([module, *arguments], process.returncode, *said)


# the server


def preload() -> None:
    """Import the product and what it imports late."""
    for package in map(importlib.import_module, ("projector", "api")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    # What is never looked at again stays shared with the children.
    gc.collect()
    gc.freeze()


def serve(channel: socket.socket) -> str:
    """Fork whenever asked to; returns in each child, with the module to run."""
    while True:
        message, streams, *_ = socket.recv_fds(channel, REQUEST_BYTES, 3)
        if not message:
            sys.exit()
        request = json.loads(message)
        if "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        elif (answer := os.fork()) == 0:
            channel.close()
            return become(request, streams)
        for stream in streams:
            os.close(stream)
        channel.send(b"%d" % answer)


def become(request: Mapping[str, Any], streams: Sequence[int]) -> str:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    return sys.argv[0]


def main(channel: socket.socket) -> None:
    """Serve; in a child, run the command."""
    codes: list[int] = []

    def leave() -> None:
        if codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    # First in, last out: behind it the interpreter would only take itself apart, which costs more
    # than most commands do.
    atexit.register(leave)
    preload()
    module = serve(channel)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            codes.append(end.code)
        raise


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
