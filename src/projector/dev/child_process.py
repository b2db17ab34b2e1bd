"""Processes that `projector dev` starts, starts again and ends."""

import asyncio
import ctypes
import signal
import sys
from collections.abc import Mapping
from typing import Final

import structlog

from projector.errors import DevError

log = structlog.get_logger()

STOP_S: Final = 8.0
RESTART_S: Final = 1.0
# The exit status of a command that needs another setting, topic or right first.
MUST_BE_CORRECTED: Final = 2
_PR_SET_PDEATHSIG: Final = 1


def show(progress: str) -> None:
    """Print progress on a terminal; elsewhere the logs have it."""
    if sys.stderr.isatty():
        print(progress, file=sys.stderr, flush=True)  # noqa: T201


class ChildProcess:
    """A process that ends with this one."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._argv = argv
        self._env = dict(env)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process in its own session, so that Ctrl-C reaches only this process."""
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, env=self._env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip

    async def wait(self) -> int:
        """Wait for the process to end and return its exit status."""
        assert self._process is not None  # noqa: S101
        return await self._process.wait()

    async def supervise(self) -> None:
        """Start the process, and again after each end; raises `DevError` if it ends with 2."""
        while True:
            await self.start()
            status = await self.wait()
            if status == MUST_BE_CORRECTED:
                raise DevError(f"the {self.name} cannot start; see the line of it above")
            log.warning("embedded server ended, starting it again", server=self.name, status=status)
            await asyncio.sleep(RESTART_S)

    async def stop(self) -> None:
        """Terminate the process; kill it if it does not end in time."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _die_with_parent() -> None:
    """Make Linux kill the child when this process dies; elsewhere the child is orphaned."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
