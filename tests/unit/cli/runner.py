"""Runs commands of `projector` in this process, or in one of their own."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from projector.cli.main import app

# No server listens there.
NOT_LISTENING = "127.0.0.1:1"


def run(*arguments: str, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(app, arguments, input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def process(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "projector", *arguments]
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def written(folder: Path, *text: str) -> str:
    """The path of a new file with this text."""
    path = folder / "events.ndjson"
    path.write_text("".join(text))
    return str(path)
