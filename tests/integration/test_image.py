"""The image without a container engine: the steps of its build, its check of health, its wheel."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.absence import skip_test
from tests.integration.ports import free_port
from tests.integration.servers import REPOSITORY, eventually

STAGE = (REPOSITORY / "Dockerfile").read_text().split("\nFROM ")[1].replace("\\\n", " ")
HEALTH = REPOSITORY / "deploy" / "image" / "health.py"
UV = [str(Path(sys.executable).parent / "uv")]
USER_NAMESPACE = ["--user", "--map-root-user"] if os.geteuid() else []
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}


def run(command: str | list[str], folder: Path) -> str:
    done = subprocess.run(
        command if isinstance(command, list) else ["sh", "-c", command],
        cwd=folder, env=CLEAN, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def copy(arguments: str, folder: Path) -> None:
    *sources, target = arguments.split()
    for source in map(REPOSITORY.joinpath, sources):
        if source.is_dir():
            shutil.copytree(source, folder / target)
        else:
            shutil.copy(source, folder / target)


def build(build_folder: Path, installed: Path) -> None:
    """Perform the steps of the stage that builds."""
    build_folder.mkdir()
    steps = re.findall(r"^(COPY|RUN) (.*)$", STAGE, re.MULTILINE)
    assert [kind for kind, _ in steps] == ["COPY", "RUN", "RUN", "COPY", "COPY", "COPY", "RUN"]
    for kind, step in steps:
        if kind == "COPY":
            copy(step, build_folder)
        else:
            here = step.replace("/build/", f"{build_folder}/")
            run(here.replace("/opt/projector", str(installed)), build_folder)


def test_the_build_of_the_image_installs_what_works_from_the_wheel_alone(tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    build(tmp_path / "build", installed)
    projector = str(installed / "bin" / "projector")
    assert run([projector, "--version"], tmp_path).strip()
    bill = json.loads((installed / "sbom.cdx.json").read_text())
    names = {component["name"] for component in bill["components"]}
    assert {"psycopg", "opentelemetry-sdk", "faust-streaming"} < names
    assert not names & {"pip", "pytest", "hatchling"}
    assert "\nfaust-streaming " in (installed / "licences.txt").read_text()
    (wheel,) = (tmp_path / "build" / "dist").iterdir()
    python = ["--python", str(installed / "bin" / "python")]
    constraint = ["--constraint", str(REPOSITORY / "requirements.lock")]
    run([*UV, "pip", "install", *python, *constraint, f"{wheel}[embedded]"], tmp_path)
    show_example(projector, tmp_path)


def show_example(projector: str, folder: Path) -> None:
    example = subprocess.Popen(
        [projector, "dev", "--example", "--port", "0"],
        cwd=folder, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert example.stdout is not None
    try:
        output = ""
        for line in example.stdout:
            output += line
            if "until Ctrl-C" in line:
                example.send_signal(signal.SIGINT)
        assert example.wait(20) == 0
    finally:
        example.kill()
        example.communicate()
    assert "4. job 10, now of a developer  200, agents 5 and 6" in output


def test_a_line_of_source_installs_no_dependency_anew() -> None:
    before, _, after = STAGE.partition("COPY src ")
    assert "runtime.lock" in before
    assert after.count("pip install") == after.count("--no-deps --no-index") == 1
    assert before.count("pip install") == before.count("--require-hashes") == 2


@pytest.fixture
def api(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    port = free_port()
    env = CLEAN | {"PROJECTOR_REDIS_URL": "redis://127.0.0.1:1/0"}
    api = subprocess.Popen(
        [sys.executable, "-m", "projector", "api", "--port", str(port)],
        cwd=tmp_path, env=env, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield api
    api.kill()
    api.wait()


def check_health(pid: int, *expected: str) -> subprocess.CompletedProcess[str]:
    """Check a container that has this process alone."""
    code = HEALTH.read_text().replace("[0-9]*/fd", f"{pid}/fd")
    command = [sys.executable, "-c", code, *expected]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_check_of_health_asks_the_server_wherever_it_listens(
    api: subprocess.Popen[bytes],
) -> None:
    with subprocess.Popen(["sleep", "60"]) as idle:
        found = check_health(idle.pid)
        missed = check_health(idle.pid, "1")
        idle.kill()
    assert found.returncode == 0, "a command that serves nothing is healthy"
    assert missed.stdout == "no answer at /health/live of port 1\n"
    assert missed.returncode == 1
    eventually(lambda: listens(api.pid), "the API listening")
    eventually(lambda: check_health(api.pid).returncode == 0, "a healthy API")
    api.send_signal(signal.SIGSTOP)
    hung = check_health(api.pid)
    assert hung.returncode == 1
    assert hung.stdout.startswith("no answer at /health/live of port ")
    api.send_signal(signal.SIGCONT)
    eventually(lambda: check_health(api.pid).returncode == 0, "a healthy API again")


def listens(pid: int) -> bool:
    code = HEALTH.read_text().replace("[0-9]*/fd", f"{pid}/fd")
    code = code.partition("if __name__")[0] + "sys.exit(not ports())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["feed", "-"], ["api", "--port", "0"]])
def test_sigterm_ends_the_first_process_of_a_container(
    tmp_path: Path, arguments: list[str]
) -> None:
    if shutil.which("unshare") is None:
        skip_test("unshare is not installed, which makes namespaces of process ids")
    unshare = ["unshare", *USER_NAMESPACE, "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        # No failure under REQUIRE_ALL either: root of a container lacks this right, as a rule.
        pytest.skip("this user may not make a namespace of process ids")
    command = [*unshare, sys.executable, "-m", "projector", *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, env=CLEAN, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        try:
            eventually(lambda: has_ended_on_sigterm(parent), "the end of the first process")
        finally:
            parent.kill()
    assert parent.returncode == 128 + signal.SIGTERM


def has_ended_on_sigterm(parent: subprocess.Popen[bytes]) -> bool:
    for child in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split():
        # It may have ended since, by the signal before.
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGTERM)
    return parent.poll() is not None
