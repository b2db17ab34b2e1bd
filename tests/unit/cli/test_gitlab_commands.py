"""`projector gitlab` without its extra, and with wrong settings."""

import os
import subprocess
import sys

import pytest

WITHOUT_PSYCOPG = """
import sys
sys.modules["psycopg"] = None
from projector.cli.main import main
main()
"""
DATABASE = "PROJECTOR_GITLAB_DATABASE"


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "PROJECTOR" not in name}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=clean | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["run", "check"])
def test_without_the_extra_a_sentence_names_it(command: str) -> None:
    done = run(WITHOUT_PSYCOPG, "gitlab", command, **{DATABASE: "host=nowhere"})
    assert done.returncode == 2
    assert "pip install '.[gitlab]'" in " ".join(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("gitlab", "--help"), ("worker", "--help")])
def test_help_needs_no_extra(arguments: tuple[str, ...]) -> None:
    assert run(WITHOUT_PSYCOPG, *arguments).returncode == 0


def test_other_commands_do_not_import_psycopg() -> None:
    code = "import sys, projector.cli.main; sys.exit('psycopg' in sys.modules)"
    assert run(code).returncode == 0


def test_wrong_settings_are_named_and_secrets_are_not() -> None:
    code = "from projector.cli.main import main; main()"
    done = run(code, "gitlab", "run", **{DATABASE: "hunter2", "PROJECTOR_GITLAB_SLOT": "UPPER"})
    assert done.returncode == 2
    assert "wrong setting: PROJECTOR_GITLAB_SLOT" in done.stderr
    done = run(code, "gitlab", "run", **{DATABASE: "hunter2"})
    assert done.returncode == 2
    assert f"wrong setting: {DATABASE}: is not a connection string" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
