"""`projector --help` at 80 columns, mistyped commands, and completion by the shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from projector.cli.main import app
from tests.unit.cli.runner import run

HEADINGS = ["Look:", "Feed:", "Run:", "Repair:", "Set up:"]


def sections() -> dict[str, list[str]]:
    """The lines of each heading of the commands."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in run("--help").stdout.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            lines = found.setdefault(line, [])
        elif line.strip():
            lines.append(line)
    return {heading: found[heading] for heading in found if heading != "Options:"}


def test_every_command_has_its_place_under_a_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = sections()
    assert list(found) == HEADINGS
    names = [line.split()[0] for lines in found.values() for line in lines]
    known = {command.name for command in app.registered_commands}
    assert len(names) == len(set(names))
    assert set(names) == known | {group.name for group in app.registered_groups}


def test_no_description_of_a_command_is_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line for each in sections().values() for line in each]
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), lines


@pytest.mark.parametrize("group", ["inspect", "gitlab", "dead-letters"])
def test_no_description_of_a_subcommand_is_cut_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in run(group, "--help").stdout.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("mistyped", "meant"), [(["statsu"], "'status'"), (["dead-letters", "lst"], "'list'")]
)
def test_a_mistyped_command_is_answered_with_what_was_meant(
    mistyped: list[str], meant: str
) -> None:
    result = run(*mistyped)
    assert result.exit_code == 2
    assert f"Did you mean {meant}?" in result.stderr


def completed(shell: str, script: str) -> list[str]:
    """Run the script in a real shell that finds the command; return its words."""
    if not shutil.which(shell):
        if os.environ.get("REQUIRE_ALL"):
            pytest.fail(f"{shell} is not installed")
        pytest.skip(f"{shell} is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("projector re", ["rebuild"]),
        ("projector dead-letters l", ["list"]),
        ("projector verify --r", ["--repair"]),
        ("projector dead-letters list --group-by ''", ["reason", "source", "type"]),
    ],
)
def test_bash_completes_commands_options_and_values(typed: str, words: list[str]) -> None:
    script = f"""
eval "$(_PROJECTOR_COMPLETE=source_bash projector)"
complete -p projector | grep -q _projector_completion || exit 7
COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_projector_completion projector
echo "${{COMPREPLY[@]}}"
"""
    assert sorted(completed("bash", script)) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_every_shell_is_printed(shell: str) -> None:
    script = f"_PROJECTOR_COMPLETE=source_{shell} projector"
    assert f"complete_{shell}" in " ".join(completed("sh", script))
