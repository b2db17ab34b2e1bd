"""`make gitlab`: the whole story, and nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.absence import skip_test
from tests.integration.gitlab.postgres import without_postgres
from tests.integration.servers import REPOSITORY

DEMO = [sys.executable, "-m", "examples.gitlab.demo"]
NOWHERE = {"PROJECTOR_KAFKA": "127.0.0.1:1", "PROJECTOR_GITLAB_DATABASE": "host=127.0.0.1 port=1"}
BEHIND = "projector-gitlab-*"


@pytest.fixture
def folder() -> Path:
    """Return a folder that PostgreSQL's user may enter, with a path short enough for a socket."""
    if reason := without_postgres():
        skip_test(reason)
    folder = Path(tempfile.mkdtemp(prefix="try-"))
    folder.chmod(0o755)
    return folder


def run_demo(
    until: str, number: signal.Signals, env: Mapping[str, str] = os.environ
) -> tuple[int, str, str]:
    """Run the demo, send the signal after the line `until`; return status, output and stderr."""
    demo = subprocess.Popen(
        [*DEMO, "0"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=env,
    )  # fmt: skip
    assert demo.stdout is not None
    output = ""
    giving_up = threading.Timer(90, demo.terminate)
    giving_up.start()
    try:
        for line in demo.stdout:
            output += line
            if until in line:
                demo.send_signal(number)
        _, errors = demo.communicate(timeout=30)
    finally:
        giving_up.cancel()
        demo.terminate()
    return demo.wait(20), output, errors


def left_behind(folder: Path) -> list[str]:
    """Return the files in the folder, and the processes that name it."""
    found = subprocess.run(
        ["pgrep", "-af", str(folder)], capture_output=True, text=True, check=False
    )
    return [*map(str, folder.iterdir()), *found.stdout.splitlines()]


def test_a_group_that_moves_a_block_and_an_end_change_the_answers_of_signed_tokens(
    folder: Path,
) -> None:
    """The example must never reach the servers that the environment names."""
    env = os.environ | NOWHERE | {"TMPDIR": str(folder)}
    status, output, errors = run_demo("until Ctrl-C", signal.SIGINT, env)
    assert (status, errors) == (0, "")
    ignored, *_ = output.splitlines()
    assert all(name in ignored for name in NOWHERE)
    steps = re.findall(r"^  \d\. job (\d+), of \w+ +(.*)$", output, re.MULTILINE)
    after_commit = r"  \(\d+ ms after COMMIT\)"
    assert [job for job, _ in steps] == ["9", "9", "10", "9", "11", "11"]
    for answer, expected in zip(
        [answer for _, answer in steps],
        [
            r"200, agents 5 and 6",
            rf"200, agent 6{after_commit}",
            rf"403 Forbidden - Your account has been blocked\.{after_commit}",
            rf"401 Unauthorized{after_commit}",
            r"503 .*source gitlab has been silent for .*",
            r"200, agent 6",
        ],
        strict=True,
    ):
        assert re.fullmatch(expected, answer), output
    assert "glcbt-" not in output
    assert not left_behind(folder)
    folder.rmdir()


def test_it_ends_at_once_and_leaves_nothing_behind_while_it_starts(folder: Path) -> None:
    env = os.environ | {"TMPDIR": str(folder)}
    status, _, errors = run_demo("PostgreSQL", signal.SIGTERM, env)
    assert (status, errors) == (0, "")
    assert not left_behind(folder)
    folder.rmdir()


def test_without_a_postgresql_it_names_the_package_in_one_sentence(folder: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-c",
         "import sys; from examples.gitlab import demo, postgres; "
         "postgres.USUAL_FOLDERS = (); sys.argv[1:] = ['0']; sys.exit(demo.main())"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30,
        env=os.environ | {"PATH": "/nowhere", "TMPDIR": str(folder)},
    )  # fmt: skip
    assert (demo.returncode, demo.stdout) == (1, "")
    assert demo.stderr.startswith("the demo cannot go on: PostgreSQL 14 or newer is needed")
    assert "apt install postgresql" in demo.stderr
    assert demo.stderr.count("\n") == 1
    assert not left_behind(folder)
    folder.rmdir()


def test_it_names_a_port_that_is_in_use_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        demo = subprocess.run(
            [*DEMO, port], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    assert demo.returncode == 1
    assert demo.stderr == f"port {port} is in use; `make gitlab PORT=0` takes a free one\n"
