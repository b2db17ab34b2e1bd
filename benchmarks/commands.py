"""CPU of commands: of `--help`, and of one that reads Redis, beside the bare libraries."""

import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage
from typing import Final

from benchmarks.processes import Servers, environment
from benchmarks.rounds import Report, Sample, interleaved
from benchmarks.sizes import Sizes

# The first of each reads its files from the disk.
WARM_UP: Final = 1
# The exit status of a job that is unknown.
UNKNOWN: Final = 2


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure both commands and their limits."""
    with servers.valkey() as port:
        url = f"redis://127.0.0.1:{port}"
        compared = {
            "help": (
                lambda: _command("projector", "--help"),
                lambda: _command("benchmarks.bare_cli", "--help"),
            ),
            "inspect": (
                lambda: _command("projector", "inspect", "job", "1", status=UNKNOWN, redis=url),
                lambda: _command("benchmarks.bare_command", "1", redis=url),
            ),
        }
        for name, (product, limit) in compared.items():
            report.figures[name] = interleaved(WARM_UP + sizes.rounds, product, limit)[WARM_UP:]


def _command(module: str, *arguments: str, status: int = 0, redis: str = "") -> Sample:
    before = _children()
    argv = [sys.executable, "-m", module, *arguments]
    env = environment() | ({"PROJECTOR_REDIS_URL": redis} if redis else {})
    done = subprocess.run(argv, capture_output=True, env=env, check=False)
    if done.returncode != status:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stderr.decode()}")
    return Sample(_children() - before)


def _children() -> float:
    spent = getrusage(RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
