"""The servers and processes that are measured, and the CPU time that they spend."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

from tests.integration import servers
from tests.integration.deployment import Deployment

from projector.ports import free_port, is_listening

prefixes: Final = count(1)


class CpuClock:
    """The CPU seconds, user and system, of a process within the block.

    Linux has a clock for each process, in nanoseconds. psutil's ticks of 10 ms are as much as the
    limit of an idle worker spends in seconds.
    """

    def __init__(self, pid: int) -> None:
        self._clock = ~pid << 3 | 2
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._before = self._spent()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._spent() - self._before

    def _spent(self) -> float:
        return time.clock_gettime(self._clock)


def peak_bytes(pid: int) -> int:
    """Return the largest resident size that the process has had, as Linux counts it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


class Conversation:
    """A process of the benchmarks that answers each line with a line."""

    def __init__(self, module: str, *args: object) -> None:
        argv = [sys.executable, "-m", f"benchmarks.{module}", *map(str, args)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def send_line(self, line: object) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def read_line(self) -> str:
        """Return the next line; raises `RuntimeError` if the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def environment() -> dict[str, str]:
    """Return an environment in which processes can import the benchmarks and the tests."""
    path = os.pathsep.join(filter(None, [str(servers.REPOSITORY), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def once(module: str, *args: object) -> Any:
    """Run a process of the benchmarks to its end, and return the JSON that it printed."""
    import msgspec  # noqa: PLC0415

    with Conversation(module, *args) as process:
        return msgspec.json.decode(process.read_line())


class Servers:
    """Kafka for the whole run, and the other servers of a benchmark, until the block's end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.kafka = ""
        self.broker = ""

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_kafka(self) -> None:
        """Start Apache Kafka, or the embedded broker if Java is missing."""
        port, missing = free_port(), servers.without_apache_kafka()
        start = servers.embedded_kafka if missing else servers.apache_kafka
        self.broker = "Tansu (embedded)" if missing else "Apache Kafka 4.0"
        self._stack.enter_context(servers.running(start(self.folder, port)))
        servers.eventually(lambda: is_listening(port), "Kafka listening")
        self.kafka = f"127.0.0.1:{port}"

    @contextmanager
    def valkey(self) -> Iterator[int]:
        """Start an empty Redis, and yield its port."""
        port = free_port()
        folder = self.folder / f"valkey-{port}"
        folder.mkdir()
        with servers.running(servers.valkey(folder, port)):
            servers.eventually(lambda: is_listening(port), "Valkey listening")
            yield port

    @contextmanager
    def deployment(self, partitions: int) -> Iterator[Deployment]:
        """Yield the product with its own topics and Redis, not started yet."""
        number = next(prefixes)
        folder = self.folder / f"deployment-{number}"
        folder.mkdir()
        with (
            self.valkey() as port,
            Deployment(self.kafka, port, f"bench-{number}.", folder) as deployment,
        ):
            deployment.env["PROJECTOR_PARTITIONS"] = str(partitions)
            created = deployment.command("topics")
            if created.returncode:
                raise RuntimeError(created.stderr)
            yield deployment


@contextmanager
def listening(argv: Sequence[object], **env: str) -> Iterator[tuple[str, int]]:
    """Start a module with a free port as its last argument; yield its URL and process id."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, argv), str(port)], env=environment() | env
    )
    try:
        servers.eventually(
            lambda: is_listening(port) or process.poll() is not None, f"{argv} listening"
        )
        if process.returncode is not None:
            raise RuntimeError(f"{argv} ended with {process.returncode}")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()
