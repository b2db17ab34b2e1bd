"""Revocations from very many jobs: nobody gets the agent once one line in Redis names it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest
from redis import RedisError

from projector.store import overlay, schema
from tests.builders import digest
from tests.faults.background_loop import BackgroundLoop
from tests.faults.conftest import Broker, Redis, prefixes
from tests.faults.fan_out import GRANTED, HELD, LATE_S, PARTITION, REVOKED, FanOut
from tests.faults.interleavings import is_stopped
from tests.faults.report import Latency, Report
from tests.faults.scenario import HEALTHY, Fault
from tests.integration.deployment import Deployment
from tests.integration.redis_servers import RedisCluster, client
from tests.integration.servers import Server, eventually

pytestmark = pytest.mark.alone

MANY: Final = int(os.environ.get("FAN_OUT_JOBS", "100000"))
# More than a bulk.
SOME: Final = 3000
ROUNDS: Final = 3
REMOVED_S: Final = 10.0
OVERLAY_OFF: Final[Fault] = ("overlay off", {})

NewFanOut = Callable[..., FanOut]


@pytest.fixture
def new_fan_out(broker: Broker, tmp_path: Path) -> Iterator[NewFanOut]:
    """Return a function that creates a company of so many jobs on the session's Kafka."""
    with ExitStack() as stack:

        def start(port: int, jobs: int = SOME) -> FanOut:
            prefix = f"faults-{next(prefixes)}."
            deployment = stack.enter_context(Deployment(broker.address, port, prefix, tmp_path))
            return FanOut(deployment, stack.enter_context(BackgroundLoop()), jobs)

        yield start


def until_stopped(worker: Server) -> None:
    eventually(lambda: is_stopped(worker), "the worker has stopped itself")


def stop_before_the_views(worker: Server, trigger: Path, act: Callable[[], object]) -> None:
    """Act; the worker stops before it writes the view of the last job."""
    trigger.write_text(digest(f"token-{SOME}"))
    act()
    eventually(lambda: not trigger.exists() and is_stopped(worker), "the worker has stopped itself")


def test_a_revocation_from_very_many_jobs(
    new_fan_out: NewFanOut, redis: Redis, report: Report
) -> None:
    fan_out = new_fan_out(redis.port, MANY)
    fan_out.start(HEALTHY)
    fan_out.watch()
    samples, over_grants = [], []
    for _ in range(ROUNDS):
        acknowledged = fan_out.send(REVOKED)
        held = fan_out.until_held()
        samples.append(held - acknowledged)
        fan_out.until_all(has_agent=False)
        written = time.monotonic()
        over_grants += fan_out.over_grants(held)
        fan_out.add_row(report, f"revocation from {MANY:,} jobs", held,
                        f"written in {written - held:.1f} s")  # fmt: skip
        fan_out.send(GRANTED)
        fan_out.until_all(has_agent=True)
        # The next line seen must be that of the next revocation.
        fan_out.until_no_line()
    report.latencies.append(Latency(f"{MANY:,} jobs", samples))
    assert over_grants == []


def is_answering(fan_out: FanOut) -> bool:
    try:
        return bool(fan_out.deployment.redis.ping())
    except RedisError:
        return False


def kill_before_the_views(fan_out: FanOut, worker: Server) -> float:
    """Revoke; the worker dies before the first view. Return when answers with the agent count."""
    fan_out.watch()
    acknowledged = fan_out.send(REVOKED)
    eventually(lambda: worker.process.poll() is not None, "the worker has died")
    return acknowledged + LATE_S


def test_a_line_left_behind(
    new_fan_out: NewFanOut, redis: Redis, report: Report, tmp_path: Path
) -> None:
    fan_out, trigger = new_fan_out(redis.port), tmp_path / "kill"
    kill = ("kill", {"phase": "before views", "nth": 1, "trigger": str(trigger)})
    worker = fan_out.start([kill])
    trigger.touch()
    late = kill_before_the_views(fan_out, worker)
    assert PARTITION in overlay.decode(fan_out.deployment.redis.get(schema.OVERLAY))
    fan_out.start_worker(HEALTHY)
    fan_out.until_all(has_agent=False)
    # The checkpoint, with the removal behind it, follows the last view. The key would expire later.
    fan_out.until_no_line(REMOVED_S)
    fan_out.add_row(report, "worker killed behind the overlay", late, "its line was left")
    assert fan_out.over_grants(late) == []


def test_overlay_off(new_fan_out: NewFanOut, redis: Redis, report: Report, tmp_path: Path) -> None:
    """The same without the overlay: until the bound, answers list the agent."""
    fan_out, trigger = new_fan_out(redis.port), tmp_path / "kill"
    kill = ("kill", {"phase": "before views", "nth": 1, "trigger": str(trigger)})
    worker = fan_out.start([OVERLAY_OFF, kill])
    trigger.touch()
    late = kill_before_the_views(fan_out, worker)
    eventually(lambda: fan_out.seen[-1].status == 503, "stale")
    fan_out.add_row(report, "MUTATION overlay off, worker killed", late, "no line")
    assert fan_out.over_grants(late)


def test_a_line_lost_with_redis(
    new_fan_out: NewFanOut, redis: Redis, report: Report, tmp_path: Path
) -> None:
    """Redis comes back with a dump from before it; the heal sets it again before any view."""
    fan_out, trigger = new_fan_out(redis.port), tmp_path / "stop"
    worker = fan_out.start([("stop", {"trigger": str(trigger), "phase": "before views"})])
    fan_out.deployment.redis.save()
    stop_before_the_views(worker, trigger, lambda: fan_out.send(REVOKED))
    redis.server.kill()
    redis.server.start()
    eventually(lambda: is_answering(fan_out), "Redis answers again")
    assert not fan_out.deployment.redis.exists(schema.OVERLAY)
    # The first write may be repeated, before its refusal leads to the heal.
    while not fan_out.deployment.redis.exists(schema.OVERLAY):
        stop_before_the_views(worker, trigger, lambda: worker.signal(signal.SIGCONT))
    held = time.monotonic()
    fan_out.watch()
    time.sleep(LATE_S)
    worker.signal(signal.SIGCONT)
    fan_out.until_all(has_agent=False)
    fan_out.add_row(report, "overlay lost with Redis", held, "back with an older dump")
    assert fan_out.over_grants(held) == []


def test_a_late_line_of_a_replaced_owner(
    new_fan_out: NewFanOut, redis: Redis, report: Report, tmp_path: Path
) -> None:
    """It holds back nothing: the records of its successor are newer."""
    fan_out, trigger = new_fan_out(redis.port), tmp_path / "stop"
    zombie = fan_out.start([("stop before the line", {"trigger": str(trigger)})])
    trigger.touch()
    fan_out.send(REVOKED)
    until_stopped(zombie)
    fan_out.start_worker(HEALTHY)
    fan_out.until_all(has_agent=False)
    fan_out.send(GRANTED)
    fan_out.until_all(has_agent=True)
    fan_out.until_no_line()
    fan_out.watch()
    woken = time.monotonic()
    zombie.signal(signal.SIGCONT)
    fan_out.until_held()
    time.sleep(LATE_S)
    fan_out.add_row(report, "late line of a replaced owner", woken, "granted again",
                    may_use=True)  # fmt: skip
    answers = [seen for seen in fan_out.seen if seen.sent >= woken]
    assert len(answers) > 100
    assert all(seen.has_agent for seen in answers)


def test_a_line_in_a_cluster(new_fan_out: NewFanOut, report: Report, tmp_path: Path) -> None:
    with ExitStack() as stack:
        three = RedisCluster(tmp_path, stack)
        fan_out, trigger = new_fan_out(three.ports[0]), tmp_path / "stop"
        fan_out.deployment.use_redis(three.url)
        worker = fan_out.start([("stop", {"trigger": str(trigger), "phase": "before views"})])
        fan_out.watch()
        stop_before_the_views(worker, trigger, lambda: fan_out.send(REVOKED))
        held = time.monotonic()
        server = client(three.ports[three.holder(schema.OVERLAY)])
        assert server.exists(schema.OVERLAY)
        time.sleep(LATE_S)
        # The servers are written to one beside the other, so some views may be new already.
        answers = [s for s in fan_out.seen if s.sent >= held and s.status != HTTPStatus.OK]
        keys = [schema.record_key(digest(f"token-{seen.job}")) for seen in answers]
        assert {three.holder(key) for key in keys} == {0, 1, 2}
        assert {seen.reason for seen in answers} == {HELD}
        worker.signal(signal.SIGCONT)
        fan_out.until_all(has_agent=False)
        eventually(lambda: not server.exists(schema.OVERLAY), "the line is removed")
        fan_out.add_row(report, "overlay in a cluster", held, "stopped behind the line")
        assert fan_out.over_grants(held) == []
