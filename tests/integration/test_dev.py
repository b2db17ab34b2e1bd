"""`projector dev` and `make run`: servers of their own, and nothing left behind."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import builders
from tests.integration.deployment import PATH
from tests.integration.servers import eventually

DEMO = [sys.executable, "-m", "projector", "dev", "--example", "--port"]
SENDER = Path(__file__).parents[2] / "examples" / "heartbeats.py"
NOWHERE = {"PROJECTOR_KAFKA": "127.0.0.1:1", "projector_redis_url": "redis://127.0.0.1:1/0"}


class DevCommand:
    def __init__(self, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "projector", "dev", "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env,
        )  # fmt: skip

    def ready(self) -> dict[str, str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), line
        return dict(pair.split("=", 1) for pair in line.split()[1:])

    def children(self, command: str = "") -> list[int]:
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", command or "."],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return [int(pid) for pid in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def dev() -> Iterator[DevCommand]:
    dev = DevCommand()
    try:
        yield dev
    finally:
        dev.process.kill()
        dev.process.communicate()


def status(api: str, token: str) -> int:
    answer = subprocess.run(
        [sys.executable, "-c",
         "import httpx, sys; print(httpx.get(sys.argv[1], headers={'Job-Token': sys.argv[2]})"
         ".status_code)", api + PATH, token],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(answer.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_restarts_a_dead_worker_and_leaves_nothing_behind(
    dev: DevCommand, number: signal.Signals
) -> None:
    ready = dev.ready()
    assert set(ready) == {"api", "kafka", "redis"}
    children = dev.children()
    assert len(children) == 4
    (worker,) = dev.children("projector worker")
    os.kill(worker, signal.SIGKILL)
    env = {"PROJECTOR_KAFKA": ready["kafka"], "PROJECTOR_REDIS_URL": ready["redis"]}
    events = [builders.group(3), builders.project(7, 3), builders.started(9, 7)]
    subprocess.run(
        [sys.executable, "-m", "projector", "feed", "-"],
        input="\n".join(map(json.dumps, events)), text=True, check=True, env=os.environ | env,
    )  # fmt: skip
    eventually(lambda: status(ready["api"], "token-9") == 200, "the restarted worker at work")
    children = dev.children()
    dev.process.send_signal(number)
    assert dev.process.wait(20) == 0
    assert not [pid for pid in children if alive(pid)]


def test_when_it_is_killed_its_children_end_too(dev: DevCommand) -> None:
    dev.ready()
    children = dev.children()
    dev.process.kill()
    dev.process.wait()
    eventually(lambda: not [pid for pid in children if alive(pid)], "no child left")


def test_an_embedded_kafka_refuses_the_checkpoint_of_another() -> None:
    """The new Kafka is empty, so the facts of the checkpoint would never change again."""
    first = DevCommand()
    try:
        ready = first.ready()
        second = DevCommand(PROJECTOR_REDIS_URL=ready["redis"])
        _, output = second.process.communicate(timeout=30)
        assert second.process.returncode == 2
        assert "holds a checkpoint" in output
    finally:
        first.process.terminate()
        first.process.communicate()


def test_with_a_source_it_names_its_kafka_to_the_sender_and_is_ready_once_heartbeats_come(
    tmp_path: Path,
) -> None:
    dev = DevCommand(PROJECTOR_SOURCES="acme")
    assert dev.process.stderr is not None
    lines = (json.loads(line) for line in dev.process.stderr)
    reading = threading.Thread(target=list, args=[lines], daemon=True)
    try:
        waiting = next(line for line in lines if line["event"].startswith("not ready"))
        assert waiting["sources"] == ["acme"]
        reading.start()
        sender = subprocess.Popen(
            [sys.executable, str(SENDER), waiting["kafka"], "acme", str(tmp_path / "acme.db")]
        )
        try:
            ready = dev.ready()
        finally:
            sender.kill()
            sender.wait()
        assert (ready["kafka"], ready["redis"]) == (waiting["kafka"], waiting["redis"])
    finally:
        dev.process.terminate()
        dev.process.wait(20)
        if reading.ident:
            reading.join()
        # Closes the pipes.
        dev.process.communicate()


def test_a_child_that_needs_another_setting_first_ends_it_before_it_is_ready() -> None:
    """The worker's web port is in use: nothing but the worker looks at it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dev = DevCommand(PROJECTOR_WORKER_WEB_PORT=str(taken.getsockname()[1]))
        output, errors = dev.process.communicate(timeout=40)
    assert (dev.process.returncode, output) == (2, "")
    assert errors.count("in use") == 1


# `projector dev --example`, which is `make run`


def run_demo(
    until: str, errors: int = subprocess.PIPE, env: Mapping[str, str] = os.environ
) -> tuple[int, str, str]:
    """Run the demo, press Ctrl-C after the line `until`; return status, output and stderr."""
    demo = subprocess.Popen(
        [*DEMO, "0"],
        stdout=subprocess.PIPE, stderr=errors, text=True, env=env,
    )  # fmt: skip
    assert demo.stdout is not None
    output = ""
    giving_up = threading.Timer(60, demo.terminate)
    giving_up.start()
    try:
        for line in demo.stdout:
            output += line
            if until in line:
                demo.send_signal(signal.SIGINT)
        _, logged = demo.communicate(timeout=20)
    finally:
        giving_up.cancel()
        demo.terminate()
    return demo.wait(20), output, logged or ""


def test_the_example_changes_an_answer_on_servers_of_its_own_and_logs_every_event() -> None:
    """Example events must never reach the servers that the environment names."""
    status, output, logged = run_demo("until Ctrl-C", env=os.environ | NOWHERE)
    assert status == 0
    ignored, *_ = output.splitlines()
    assert all(name in ignored for name in NOWHERE)
    steps = re.findall(r"^  (\d)\. job (\d+), .*  (\d{3}.*)$", output, re.MULTILINE)
    assert steps == [
        ("1", "9", "200, agents 5 and 6"),
        ("2", "10", "200, no agent"),
        ("3", "11", "401 Unauthorized"),
        ("4", "10", "200, agents 5 and 6"),
    ]
    assert re.search(r"The answer changed \d+ ms after Kafka", output)
    events = [json.loads(line)["event"] for line in logged.splitlines()]
    assert events.count("claimed") == events.count("released") == 16
    assert {"worker started", "api starting", "worker stopped"} < set(events)


def test_on_a_terminal_the_example_shows_its_progress_instead_of_logs() -> None:
    reader, terminal = pty.openpty()
    try:
        status, output, _ = run_demo("ready ", errors=terminal)
        shown = os.read(reader, 65536).decode()
    finally:
        os.close(terminal)
        os.close(reader)
    assert status == 0
    assert output.startswith("ready ")
    assert shown.splitlines() == [
        "starting redis, in memory",
        "starting kafka, in memory",
        "starting a worker and the API, some five seconds",
    ]


def test_the_example_names_a_port_that_is_in_use_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        demo = subprocess.run([*DEMO, port], capture_output=True, text=True, check=False)
    assert demo.returncode == 2
    assert demo.stderr == (
        f"port {port} is in use; choose another with --port, or 0 for a free one "
        "(`make run PORT=0`)\n"
    )
