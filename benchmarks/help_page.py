"""CPU of `projector --help`, beside the help of a Typer program with one command."""

import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage
from typing import Final

from benchmarks.processes import Servers, environment
from benchmarks.rounds import Report, Sample, interleaved
from benchmarks.sizes import Sizes

# The first of each reads its files from the disk.
WARM_UP: Final = 1


def measure(_servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure both programs."""
    rounds = interleaved(
        WARM_UP + sizes.rounds, lambda: _help("projector"), lambda: _help("benchmarks.bare_cli")
    )
    report.figures["help"] = rounds[WARM_UP:]


def _help(module: str) -> Sample:
    before = _children()
    argv = [sys.executable, "-m", module, "--help"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, env=environment(), check=True)
    return Sample(_children() - before)


def _children() -> float:
    spent = getrusage(RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
