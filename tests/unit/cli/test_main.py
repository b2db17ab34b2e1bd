"""The `projector` command: its version, its help, and how Python runs it."""

from importlib.metadata import version
from pathlib import Path

import pytest

from projector.cli.terminal import WRONG
from tests.unit.cli.runner import process, run, written


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == version("allowed-agents-projector") + "\n"


@pytest.mark.parametrize(
    "command",
    [
        "", "worker", "api", "ops", "topics", "feed", "dev", "schemas", "status", "explain",
        "verify", "audit", "rebuild", "dead-letters", "dead-letters list", "dead-letters show",
        "dead-letters replay", "inspect", "inspect job", "inspect token", "inspect partition",
        "inspect agent",
    ],
)  # fmt: skip
def test_help_is_there_for_every_command(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_python_runs_the_package_as_the_command(tmp_path: Path) -> None:
    """A process of its own, with its own log: exit code and sentences, no traceback."""
    done = process("feed", written(tmp_path, "{\n"))
    assert (done.returncode, done.stdout) == (WRONG, "")
    assert "events.ndjson:1: the value is not JSON" in done.stderr
    assert "Traceback" not in done.stderr
