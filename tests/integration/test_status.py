"""`projector status` on real servers: healthy, with a stopped worker, without Kafka or Redis."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from projector.config.settings import Settings
from projector.ports import is_listening
from tests import builders
from tests.heartbeat_sender import HeartbeatSender, sending
from tests.integration import servers
from tests.integration.conftest import apache_or_skip
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.ports import free_port
from tests.integration.servers import eventually, running

COMPANY = [
    builders.group(3), builders.project(7, 3), builders.member(1, group_id=3), builders.agent(5, 7),
]  # fmt: skip
BOUND = "6"


def status(deployment: Deployment) -> tuple[int, Any]:
    done = deployment.command("status", "--json")
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_deployment_is_fresh_and_says_what_it_did(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY, builders.started(9, 7), builders.started(10, 7))
    deployment.until("token-9", 200)
    deployment.feed(builders.removed("job", 9))
    deployment.until("token-9", 401)
    deployment.produce(b"{", topic="membership", partition=0)
    found: dict[str, Any] = {}

    def counted() -> bool:
        code, found["now"] = status(deployment)
        revocations = found["now"]["totals"]["rates"]["revocations"]
        return (code, revocations, found["now"]["dead_letters"]) == (0, 1, 1)

    eventually(counted, "the revocation and the dead letter counted")
    now = found["now"]
    assert now["kafka"] is None
    assert len(now["partitions"]) == PARTITIONS == now["totals"]["fresh"]
    (worker,) = now["workers"]
    assert worker["partitions"] == list(range(PARTITIONS))
    assert (now["totals"]["live_tokens"], now["totals"]["lag"]) == (1, 0)
    rates = now["totals"]["rates"]
    assert 0 < rates["revocation_p99"] <= rates["revocation_max"] < 60
    assert rates["events"] > 0
    text = deployment.command("status").stdout
    assert f"{PARTITIONS} partitions: {PARTITIONS} fresh\n" in text
    assert "1 live token, 6 facts, lag 0, dead letters 1\n" in text


def test_before_any_worker_has_run_everything_is_unclaimed(deployment: Deployment) -> None:
    assert deployment.command("topics").returncode == 0
    code, found = status(deployment)
    assert (code, found["totals"]["unclaimed"], found["workers"]) == (1, PARTITIONS, [])
    assert on_a_terminal(deployment, until="4 partitions: 4 unclaimed") == 1


def on_a_terminal(deployment: Deployment, until: str) -> int:
    """Watch until the screen shows the text, press Ctrl-C; return the exit code."""
    process, screen = pty.fork()
    if process == 0:
        env = {**os.environ, **deployment.env, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
        os.execve(sys.executable, [sys.executable, "-m", "projector", "status", "--watch"], env)
    shown = b""
    while until.encode() not in shown:
        assert select.select([screen], [], [], 60)[0], shown
        shown += os.read(screen, 65536)
    os.write(screen, b"\x03")
    with contextlib.suppress(OSError):  # Linux: the other side has closed the terminal
        while os.read(screen, 65536):
            pass
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.usefixtures("real_processes")
def test_a_worker_that_hangs_is_seen_and_so_is_what_waits_for_it(
    deployment: Deployment, request: pytest.FixtureRequest
) -> None:
    deployment.env["PROJECTOR_MAX_STALENESS"] = BOUND
    worker = deployment.start_all()
    watch = deployment.start("status", "--watch")
    eventually(lambda: "fresh" in states(watch.log(), 0), "a line for the partitions")
    worker.signal(signal.SIGSTOP)
    stopped = time.time()
    deployment.feed(*COMPANY)
    for state in ("late", "stale"):
        eventually(lambda state=state: state in states(watch.log(), 0), f"it is {state}")  # type: ignore[misc]
    eventually(lambda: status(deployment)[1]["totals"]["stale"] == PARTITIONS, "all are stale")
    code, found = status(deployment)
    assert code == 1
    (cause,) = found["causes"]
    assert (cause["name"], cause["severity"]) == ("workers-gone", "outage")
    assert cause["since"] == pytest.approx(stopped * 1000, abs=5000)
    waited = deployment.command("status", "--wait", "1")
    assert waited.returncode == 1
    assert "outage: The only worker is silent. Lookups get 503." in waited.stderr
    # The embedded broker returns only the first offset of a batch.
    least = len(COMPANY) if "apache" in request.node.name else 2
    assert least <= found["totals"]["lag"] <= len(COMPANY)
    worker.signal(signal.SIGCONT)
    waited = deployment.command("status", "--wait", "50")
    assert (waited.returncode, waited.stdout) == (0, f"all {PARTITIONS} partitions are fresh\n")
    eventually(lambda: states(watch.log(), 0)[-1] == "fresh", "the watch prints it")
    watch.signal(signal.SIGINT)
    assert watch.process.wait(20) == 0


def states(log: str, partition: int) -> list[str]:
    """Return the printed states of a partition, the latest last."""
    found = []
    for numbers, state in re.findall(r" partitions? ([-\d, ]+): (\w+),", log):
        ends = [list(map(int, run.split("-"))) for run in numbers.split(", ")]
        if any(run[0] <= partition <= run[-1] for run in ends):
            found.append(state)
    return found


@pytest.mark.usefixtures("real_processes")
def test_without_redis_it_is_an_outage_that_a_watch_outlasts(deployment: Deployment) -> None:
    deployment.start_all()
    watch = deployment.start("status", "--watch", "--json")
    eventually(lambda: "partitions" in keys(watch.log()), "the watch shows partitions")
    deployment.redis.shutdown(nosave=True)
    done = deployment.command("status", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    found = json.loads(done.stdout)
    assert found["trouble"].startswith("Redis at redis://127.0.0.1:")
    assert found["trouble"].endswith(" cannot be reached: connection refused")
    assert [cause["name"] for cause in found["causes"]] == ["redis-unreachable"]
    eventually(lambda: "trouble" in keys(watch.log()), "the watch prints why")
    watch.signal(signal.SIGINT)
    assert watch.process.wait(20) == 1


def keys(log: str) -> set[str]:
    """Return the fields of all JSON objects that the watch has printed, one per line."""
    return {key for line in log.split("\n")[:-1] for key in json.loads(line)}


def test_without_kafka_there_is_what_redis_says(deployment: Deployment) -> None:
    deployment.start_all()
    nobody = f"127.0.0.1:{free_port()}"
    deployment.env["PROJECTOR_KAFKA"] = nobody
    code, found = status(deployment)
    assert code == 0
    assert (found["totals"]["fresh"], found["totals"]["lag"]) == (PARTITIONS, None)
    assert found["dead_letters"] is None
    assert f"Kafka at {nobody} cannot be reached: no broker answers" in found["kafka"]
    (cause,) = found["causes"]
    assert (cause["name"], cause["severity"]) == ("kafka-unreachable", "notice")
    assert "<" not in cause["detail"]


def test_topics_of_another_prefix_are_not_taken_for_the_workers(deployment: Deployment) -> None:
    """All partitions looked fresh, with a lag of 0, whatever the prefix was."""
    deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.env["PROJECTOR_TOPIC_PREFIX"] = prefix = f"{deployment.prefix}foo-"
    for command in ("status", "topics"):
        assert deployment.command(command).returncode == 0
        (cause,) = status(deployment)[1]["causes"]
        assert (cause["name"], cause["severity"]) == ("other-topics", "notice")
        assert f"other topics than those with the prefix `{prefix}`." in cause["what"]


@pytest.mark.usefixtures("real_processes")
def test_a_watch_says_since_when_kafka_is_away_and_goes_on_by_itself(tmp_path: Path) -> None:
    """It showed `lag 0` for ever: its source had ended with the outage, silently."""
    apache_or_skip("apache")
    kafka, redis = free_port(), free_port()
    with (
        running(servers.valkey(tmp_path, redis)),
        running(servers.apache_kafka(tmp_path, kafka)) as broker,
        Deployment(f"127.0.0.1:{kafka}", redis, "watch.", tmp_path) as deployment,
    ):
        eventually(lambda: is_listening(kafka) and is_listening(redis), "both listening")
        worker = deployment.start_all()
        as_json = deployment.start("status", "--watch", "--json")
        as_lines = deployment.start("status", "--watch")
        # A letter, so that the watch has a fetch under way.
        deployment.produce(b"{", topic="membership", partition=0)
        eventually(lambda: last(as_json.log()).get("dead_letters") == 1, "the letter is counted")
        eventually(lambda: known(as_json.log()), "the lag is shown")
        broker.kill()
        eventually(lambda: not known(as_json.log()), "the lag is not shown any more")
        reason = last(as_json.log())["kafka"]
        assert f"Kafka at 127.0.0.1:{kafka}" in reason
        assert "(since 20" in reason
        eventually(lambda: "no lag, no dead letters: Kafka at" in as_lines.log(), "a line says so")
        blamed = "outage: Kafka cannot be reached. Lookups get 503."
        eventually(lambda: blamed in as_lines.log(), "the cause, and that alone")
        assert [c["name"] for c in last(as_json.log())["causes"]] == ["kafka-unreachable"]
        broker.start()
        eventually(lambda: known(as_json.log()), "the lag is shown again", 60)
        eventually(lambda: "are known again" in as_lines.log(), "a line says so")
        deployment.until_fresh()
        worker.signal(signal.SIGSTOP)
        deployment.feed(*COMPANY)
        eventually(lambda: (last(as_json.log())["totals"]["lag"] or 0) > 0, "it is no old lag")
        worker.signal(signal.SIGCONT)
        for watch in (as_json, as_lines):
            watch.signal(signal.SIGINT)
            assert watch.process.wait(20) in (0, 1)


def last(log: str) -> Any:
    """Return the last whole JSON object that the watch has printed; an empty one before."""
    lines = log.split("\n")[:-1]
    return json.loads(lines[-1]) if lines else {}


def known(log: str) -> bool:
    found = last(log)
    return "kafka" in found and found["kafka"] is None and found["totals"]["lag"] is not None


def test_a_silent_source_is_named_wherever_people_look(deployment: Deployment) -> None:
    deployment.env |= {
        "PROJECTOR_SOURCES": "gitlab,hr", "PROJECTOR_MAX_STALENESS": "2",
        "PROJECTOR_MISS_GRACE": "1.5",
    }  # fmt: skip
    assert deployment.command("topics").returncode == 0
    deployment.start("worker")
    deployment.start_api()
    settings = Settings(kafka=deployment.kafka, topic_prefix=deployment.prefix)
    with sending(HeartbeatSender(settings, PARTITIONS, "hr")):
        with sending(HeartbeatSender(settings, PARTITIONS, "gitlab")):
            deployment.until_fresh()
            deployment.feed(*COMPANY, builders.started(9, 7))
            deployment.until("token-9", 200)
            code, found = status(deployment)
            assert (code, {s["state"] for s in found["sources"]}) == (0, {"heard"})
        deployment.until("token-9", 503)
        named = "source gitlab has been silent for "
        assert deployment.look_up("token-9").body["reason"].startswith(named)
        assert deployment.look_up("unknown").body["reason"].startswith(named)
        assert deployment.get("/health/fresh").body["reason"].startswith(named)
        code, found = status(deployment)
        assert code == 1
        (cause,) = found["causes"]
        assert (cause["name"], cause["severity"]) == ("source-silent", "outage")
        assert [(s["source"], s["state"], s["waiting"]) for s in found["sources"]] == [
            ("gitlab", "silent", list(range(PARTITIONS))), ("hr", "heard", []),
        ]  # fmt: skip
        inspected = deployment.command("inspect", "partition", "0").stdout
        assert "waits for   source gitlab, silent for " in inspected
