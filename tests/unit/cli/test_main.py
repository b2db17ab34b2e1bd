"""The `projector` command: its version, its help, what it imports, and how Python runs it."""

import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from projector.cli.terminal import WRONG
from tests.unit.cli.runner import process, run, written


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == version("allowed-agents-projector") + "\n"


COMMANDS = [
    "", "worker", "api", "ops", "topics", "feed", "dev", "schemas", "status", "explain",
    "verify", "audit", "rebuild", "dead-letters", "dead-letters list", "dead-letters show",
    "dead-letters replay", "inspect", "inspect job", "inspect token", "inspect partition",
    "inspect agent", "gitlab", "gitlab check", "gitlab export", "gitlab run",
]  # fmt: skip
# Not pydantic, which Typer itself imports to parse values.
HEAVY = {
    "aiokafka", "asyncio", "cryptography", "fastapi", "faust", "jsonschema",
    "opentelemetry.sdk.trace", "prometheus_client", "psycopg", "pydantic_settings", "pygments",
    "redis", "rich", "starlette", "structlog", "tenacity", "uvicorn", "yaml",
}  # fmt: skip


def imported(program: str, *arguments: str) -> set[str]:
    """Return which heavy packages a new Python has loaded at the end of the program."""
    code = f"import sys\n{program}\nprint(*sys.modules)"
    argv = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return HEAVY & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there_for_every_command(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_help_and_a_mistake_import_nothing_that_a_command_needs() -> None:
    """All in one process: `projector --help` takes 0.1 s, and took 0.5."""
    program = f"""
from typer.testing import CliRunner
from projector.cli.main import app
for command in {COMMANDS}:
    assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0
assert CliRunner().invoke(app, ["--version"]).exit_code == 0
assert CliRunner().invoke(app, ["statsu"]).exit_code == 2
assert CliRunner().invoke(app, ["explain", "nine"]).exit_code == 2
"""
    assert imported(program) == set()


# Half of the time of a command is what it imports: each of these costs 20 to 100 ms.
SERVERS = {"faust", "fastapi", "starlette", "uvicorn", "opentelemetry.sdk.trace", "pygments"}
KAFKA = {"aiokafka", "tenacity"}
REDIS = {"redis"}
METRICS = {"prometheus_client"}


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("projector.clients.redis_client", SERVERS | KAFKA | METRICS),
        ("projector.cli.explain_command", SERVERS | KAFKA | METRICS),
        ("projector.cli.inspect_command", SERVERS | KAFKA | METRICS),
        ("projector.cli.verify_command", SERVERS | KAFKA | METRICS),
        ("projector.cli.audit_command", SERVERS | KAFKA | METRICS),
        ("projector.cli.status_command", SERVERS | METRICS),
        ("projector.cli.rebuild_command", SERVERS),
        ("projector.cli.dead_letter_list", SERVERS),
        ("projector.cli.feed_command", SERVERS | REDIS | METRICS),
        ("projector.cli.topics_command", SERVERS | REDIS | METRICS),
        ("projector.cli.schemas_command", SERVERS | KAFKA | REDIS | METRICS | {"structlog"}),
        ("projector.cli.gitlab_commands", SERVERS | REDIS | KAFKA | METRICS | {"psycopg"}),
        ("projector.cli.serve_commands", SERVERS | REDIS | KAFKA | METRICS | {"cryptography"}),
        # The operators' page brings it, where there is a token.
        ("api.app", {"aiokafka"}),
    ],
)
def test_a_command_imports_nothing_that_it_does_not_need(module: str, needless: set[str]) -> None:
    program = f"""
from projector.cli.main import leave_out_unused_libraries
leave_out_unused_libraries()
import {module}
import sys
sys.modules = {{name: module for name, module in sys.modules.items() if module}}
"""
    assert not imported(program) & needless


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"])
def test_with_a_variable_of_opentelemetry_its_library_can_be_imported(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    program = """
from projector.cli.main import leave_out_unused_libraries
leave_out_unused_libraries()
import opentelemetry.sdk.trace
"""
    assert "opentelemetry.sdk.trace" in imported(program)


@pytest.mark.parametrize(("number", "ended"), [(1, 128 + signal.SIGTERM), (2, -signal.SIGTERM)])
def test_the_first_process_of_a_container_ends_on_sigterm(number: int, ended: int) -> None:
    """Linux ends the others; tests/integration/test_image.py has a real first process."""
    program = f"""
import os, signal
from projector.cli import main
os.getpid = lambda: {number}
main.app = lambda: signal.raise_signal(signal.SIGTERM)
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (ended, "")


def test_python_runs_the_package_as_the_command(tmp_path: Path) -> None:
    """A process of its own, with its own log: exit code and sentences, no traceback."""
    done = process("feed", written(tmp_path, "{\n"))
    assert (done.returncode, done.stdout) == (WRONG, "")
    assert "events.ndjson:1: the value is not JSON" in done.stderr
    assert "Traceback" not in done.stderr
