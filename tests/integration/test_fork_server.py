"""A forked command behaves like a new Python."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.integration import processes
from tests.integration.servers import eventually


@pytest.fixture(params=["forked", "new"], autouse=True)
def _forked_or_new(request: pytest.FixtureRequest) -> Iterator[None]:
    with processes.not_forking() if request.param == "new" else nullcontext():
        yield


def python(code: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the code once, by `python -m timeit`."""
    return processes.run("timeit", ["-n1", "-r1", code], os.environ | env, stdin, timeout=30)


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [("--version", 0, "0.", ""), ("nonsense", 2, "", "No such command 'nonsense'")],
)
def test_exit_code_and_streams(command: str, code: int, out: str, err: str) -> None:
    done = processes.run("projector", [command], os.environ, "", timeout=30)
    assert done.returncode == code
    assert done.stdout.startswith(out)
    assert err in done.stderr


def test_environment_and_input_are_its_own() -> None:
    code = "import os, sys; print(os.environ.get('MINE'), sys.stdin.read(), os.getcwd())"
    assert f"1 given {os.getcwd()}\n" in python(code, "given", MINE="1").stdout
    assert f"None  {os.getcwd()}\n" in python(code).stdout


def test_threads_end_and_what_is_registered_for_the_exit_runs() -> None:
    code = (
        "import atexit, threading, time; atexit.register(print, 'exit');"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()"
    )
    assert python(code).stdout.splitlines()[-2:] == ["thread", "exit"]


def test_an_error_ends_it_with_1_and_a_traceback() -> None:
    done = processes.run("tests.integration.no_such_module", [], os.environ, "", timeout=30)
    assert done.returncode == 1
    assert "No module named tests.integration.no_such_module" in done.stderr


def test_it_is_stopped_killed_and_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        code = ["-n1", "import time; print('here', flush=True); time.sleep(60)"]
        process = processes.start("timeit", code, os.environ, log, log)
    eventually(lambda: "here" in (tmp_path / "log").read_text(), "it runs")
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    assert process.poll() is None
    process.kill()
    assert process.wait() == process.poll() == process.returncode == -signal.SIGKILL
