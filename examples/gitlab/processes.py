"""`projector dev` and the bridge as processes, with their logs in files."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from examples.gitlab.postgres import last_line

PROJECTOR = [sys.executable, "-m", "projector"]
START_S = 60.0
STOP_S = 20.0  # `projector dev` gives its processes 16 seconds to end
WAITING = "not ready before heartbeats come"


class DemoError(Exception):
    """The demo cannot go on; the message is the reason."""


class Process:
    """A command of the product. Ctrl-C reaches the demo alone, which then ends it."""

    def __init__(self, command: list[str], env: Mapping[str, str], folder: Path) -> None:
        self._command = command
        self._env = os.environ | env
        self.name = " ".join(["projector", *command])
        self._output = folder / f"{command[0]}.output"
        self._log = folder / f"{command[0]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("wb") as output, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*PROJECTOR, *self._command], env=self._env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise `DemoError` with the last line of the log, if the process has ended."""
        if self._process is not None and self._process.poll() is not None:
            log = self._log.read_text(errors="replace")
            raise DemoError(f"`{self.name}` has ended: {last_line(log)}")

    def waiting(self) -> dict[str, str] | None:
        """Return the addresses of Kafka and Redis, once heartbeats alone are missing."""
        for line in self._log.read_text(errors="replace").splitlines():
            if WAITING in line:
                found: dict[str, Any] = json.loads(line)
                return {"kafka": found["kafka"], "redis": found["redis"]}
        return None

    def ready(self) -> dict[str, str] | None:
        """Return the addresses of the line `ready`, once it is there."""
        line, end, _ = self._output.read_text().partition("\n")
        return dict(pair.split("=", 1) for pair in line.split()[1:]) if end else None


def until(
    found: Callable[[], dict[str, str] | None], running: list[Process], what: str
) -> dict[str, str]:
    """Wait for an answer of `found`; raises `DemoError` if one of the running ends."""
    end = time.monotonic() + START_S
    while (answer := found()) is None:
        for process in running:
            process.check()
        if time.monotonic() > end:
            raise DemoError(f"not within {START_S:.0f} s: {what}")
        time.sleep(0.05)
    return answer
