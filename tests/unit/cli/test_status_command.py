"""`projector status`: its exit codes, and what it prints of a Redis that refuses or is away."""

import json
import time
from typing import Any

import fakeredis
import pytest
from redis.exceptions import AuthenticationError

from projector.cli import status_command
from projector.clients import redis_client
from projector.operators import status
from projector.operators.kafka_lag import EndOffsetPoller
from projector.store import schema
from tests.unit.cli.runner import run
from tests.unit.store.test_partition_count import SENTENCE


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "WAIT_INTERVAL_S", 0.01)


@pytest.fixture
def worker_that_ended(server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last stamp still counts as fresh, however slow this machine is."""
    monkeypatch.setenv("PROJECTOR_MAX_STALENESS", "600")
    monkeypatch.setattr(status, "LATE_S", 600.0)
    redis = fakeredis.FakeRedis(server=server)
    now = int(time.time() * 1000)
    redis.set(schema.PARTITIONS_KEY, "1")
    redis.hset(
        schema.partition_key(0),
        mapping={"epoch": 7, "owner": "a", "revision": 3, "stamp_epoch": 7, "stamp": now - 100},
    )


@pytest.mark.usefixtures("worker_that_ended")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_wait_for_a_frozen_worker_is_not_over_although_its_stamp_is_recent(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exited with 0: its last look forgot that no stamp had come since it began."""
    monkeypatch.setattr(EndOffsetPoller, "first", _no_wait)
    found = run("status", "--wait", "0.1", *options)
    assert found.exit_code == 1
    assert "are fresh\n" not in found.stdout
    if options:
        assert json.loads(found.stdout)["totals"]["fresh"] == 1
    else:
        assert "Not every partition was stamped since the command began" in found.stderr


async def _no_wait(_: object) -> None:
    """Kafka is of no interest."""


@pytest.mark.parametrize("options", [(), ("--wait", "5")])
def test_a_refusal_by_redis_is_not_called_an_outage(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(fakeredis.FakeAsyncRedis):
        async def execute_command(self, *_: Any, **__: Any) -> Any:
            raise AuthenticationError("invalid username-password pair or user is disabled.")

    monkeypatch.setattr(redis_client, "create_redis", lambda _: Refusing())
    monkeypatch.setattr(EndOffsetPoller, "first", _no_wait)
    found = run("status", *options)
    assert found.exit_code == 2
    printed = found.stderr if options else found.stdout
    assert "does not know this user and password" in printed
    assert "as for the workers" in printed
    assert "docs/runbook.md#redis-refused" in printed
    assert "Start Redis" not in printed


@pytest.mark.parametrize("options", [(), ("--json",), ("--wait", "0.1")])
def test_a_damaged_number_of_partitions_is_shown_as_every_cause_is(
    options: tuple[str, ...], server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was printed without what lookups get; a watch called it a Redis out of reach."""
    monkeypatch.setattr(EndOffsetPoller, "first", _no_wait)
    fakeredis.FakeRedis(server=server).set(schema.PARTITIONS_KEY, "abc")
    found = run("status", *options)
    assert found.exit_code == 2
    printed = found.stderr if "--wait" in options else found.stdout
    for text in (SENTENCE, "Lookups get 503.", "partition-count-damaged"):
        assert text in " ".join(printed.split())


@pytest.mark.usefixtures("worker_that_ended")
def test_a_wait_outlasts_a_number_of_partitions_that_a_worker_writes_again(
    server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended at once with 2."""
    monkeypatch.setattr(EndOffsetPoller, "first", _no_wait)
    redis, shown = fakeredis.FakeRedis(server=server), list[str]()

    def write_again(line: str) -> None:
        shown.append(line)
        redis.set(schema.PARTITIONS_KEY, "1")

    monkeypatch.setattr(status_command, "warn", write_again)
    redis.set(schema.PARTITIONS_KEY, "abc")
    assert run("status", "--wait", "1").exit_code == 1
    assert shown[0] == "waiting: The number of partitions in Redis is damaged."
    assert status_command.UNSTAMPED in shown
