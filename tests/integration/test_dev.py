"""`projector dev` as a newcomer meets it: one command, one line, no traces."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import builders
from tests.integration.deployment import PATH
from tests.integration.servers import eventually


class Dev:
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
def dev() -> Iterator[Dev]:
    dev = Dev()
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
    dev: Dev, number: signal.Signals
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


def test_when_it_is_killed_its_children_end_too(dev: Dev) -> None:
    dev.ready()
    children = dev.children()
    dev.process.kill()
    dev.process.wait()
    eventually(lambda: not [pid for pid in children if alive(pid)], "no child left")


def test_an_embedded_kafka_refuses_the_checkpoint_of_another() -> None:
    """It starts empty: the facts of the checkpoint would never change again."""
    first = Dev()
    try:
        ready = first.ready()
        second = Dev(PROJECTOR_REDIS_URL=ready["redis"])
        _, said = second.process.communicate(timeout=30)
        assert second.process.returncode == 2
        assert "holds a checkpoint" in said
    finally:
        first.process.terminate()
        first.process.communicate()
