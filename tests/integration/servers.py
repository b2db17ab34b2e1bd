"""Server processes for tests: brokers, Valkey and the product's own."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from projector.dev.embedded import kafka_command, redis_command
from tests.integration import processes
from tests.integration.ports import free_port
from tests.integration.processes import Process

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "kafka"
START_S = 60


class Server:
    """A process with its log, and the signals that tests send."""

    def __init__(self, argv: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._argv = argv
        self._log = log
        self._env = dict(env or os.environ)
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = self._start(log)

    def _start(self, log: IO[bytes]) -> Process:
        return subprocess.Popen(self._argv, stdout=log, stderr=log, env=self._env)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = 20) -> int:
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class ProjectorProcess(Server):
    """A process of the product, or of a test module that runs its command line."""

    def _start(self, log: IO[bytes]) -> Process:
        module, *command = self._argv
        return processes.start(module, command, self._env, log, log)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Kill the server when the block ends."""
    try:
        yield server
    finally:
        server.kill()


def eventually(holds: Callable[[], bool], what: str, timeout: float = START_S) -> None:
    """Wait until `holds` returns true; fail with `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.05)


def embedded_kafka(folder: Path, port: int) -> Server:
    return Server(kafka_command(port), folder / "broker.log")


def apache_kafka(
    folder: Path, port: int, controller: int = 0, command: str = "run", *properties: str,
    env: Mapping[str, str] | None = None,
) -> Server:  # fmt: skip
    """Start a broker; with the command `join`, a further one of the controller's cluster.

    `properties` (name=value) override those of `scripts/kafka`.
    """
    ports = str(port), str(folder), str(controller or free_port())
    argv = [str(SCRIPT), command, *ports, *properties]
    return Server(argv, folder / f"{command}.log", os.environ | dict(env or {}))


def valkey(folder: Path, port: int, *options: str, env: Mapping[str, str] | None = None) -> Server:
    """Start a Valkey; `options` override the defaults, which keep nothing on disk."""
    argv = [*redis_command(port, str(folder)), *options]
    return Server(argv, folder / "valkey.log", os.environ | dict(env or {}))


def projector(
    command: list[str], log: Path, env: Mapping[str, str], module: str = "projector"
) -> Server:
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return ProjectorProcess([module, *command], log, os.environ | {"PYTHONPATH": paths, **env})


def without_apache_kafka() -> str | None:
    """Return why Apache Kafka cannot run here, or None."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if missing:
        return f"NO TEST RUNS ON APACHE KAFKA: {' and '.join(missing)} not installed"
    return None
