"""What Faust fetches once more is not delivered once more, and nothing else is left out."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from projector.config.settings import Settings
from projector.events.model import Topic
from projector.kafka.faust_consumer import ShortPollThread, skip_applied
from projector.worker.faust_app import create_app
from projector.worker.owner_group import OwnerGroup


class Fetched(NamedTuple):
    offset: int


def iterated(known: int, **fetched: list[int]) -> list[tuple[str, int]]:
    records = {TP(topic, 0): [Fetched(o) for o in offsets] for topic, offsets in fetched.items()}
    scheduler = skip_applied(lambda tp: known if tp.topic == "read" else 0)()
    return [(tp.topic, record.offset) for tp, record in scheduler.iterate(records)]


def test_records_before_what_is_known_are_left_out_and_faust_orders_the_others() -> None:
    found = iterated(3, read=[1, 2, 3, 5], other=[1, 2])
    assert found == [("read", 3), ("other", 1), ("read", 5), ("other", 2)]


def test_of_records_that_are_all_known_the_last_is_delivered() -> None:
    """Faust commits what was delivered and acknowledged; without any it would begin there again."""
    assert iterated(9, read=[1, 2, 3]) == [("read", 3)]
    assert iterated(9, read=[]) == []


async def test_the_worker_asks_the_owners_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = OwnerGroup(lambda partition: pytest.fail("no owner"))
    asked = []

    def known(topic: Topic, partition: int) -> int:
        asked.append((topic, partition))
        return 2

    monkeypatch.setattr(owners, "known_offset", known)
    app = create_app(Settings(topic_prefix="x."), owners, str(tmp_path))
    place = TP("x.agent-config", 4)
    found = app.conf.ConsumerScheduler().iterate({place: [Fetched(1), Fetched(2)]})
    assert list(found) == [(place, Fetched(2))]
    assert asked == [(Topic.AGENT_CONFIG, 4)]


class Created:
    _fetch_max_wait_ms = 1500
    _isolation_level = "read_uncommitted"


def test_fausts_consumer_waits_shortly_and_reads_what_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An aborted grant that is applied is an over-grant."""
    monkeypatch.setattr(
        AIOKafkaConsumerThread, "_create_worker_consumer", lambda _self, _transport: Created()
    )
    thread = ShortPollThread.__new__(ShortPollThread)
    created = thread._create_worker_consumer(None)
    assert (created._fetch_max_wait_ms, created._isolation_level) == (100, "read_committed")


async def test_nothing_is_known_of_a_partition_that_nobody_owns() -> None:
    owners = OwnerGroup(lambda partition: pytest.fail("no owner"))
    assert owners.known_offset(Topic.MEMBERSHIP, 1) == 0


QUIET = TP("x.membership", 3)
QUIET_S = 22 * 60


@pytest.fixture
async def quiet(tmp_path: Path) -> Any:
    """Faust's consumer thread when an event comes after a quiet time, not yet taken."""
    owners = OwnerGroup(lambda partition: pytest.fail("no owner"))
    app = create_app(Settings(topic_prefix="x."), owners, str(tmp_path))
    thread, now = app.consumer._thread, time.monotonic()
    state = SimpleNamespace(highwater=5, position=4, timestamp=now * 1000)
    assignment = SimpleNamespace(active=True, state_value=lambda tp: state)
    thread._consumer = SimpleNamespace(
        _fetcher=SimpleNamespace(
            _subscriptions=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
        )
    )
    thread.time_started = now - QUIET_S
    thread.tp_last_committed_at[QUIET] = now - QUIET_S
    app.monitor.stream_inbound_time[QUIET] = now
    app.topics._acking_topics.add(QUIET.topic)
    yield thread
    thread._consumer = None
    thread.thread_loop.close()


def test_the_first_event_after_a_quiet_time_is_no_error(
    quiet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Faust logged "The commit handler background thread has stopped working (report as bug)"."""
    now = time.monotonic()
    AIOKafkaConsumerThread.verify_event_path(quiet, now, QUIET)
    assert "Has not committed" in caplog.text, "Faust's own check logs one"
    caplog.clear()
    quiet.verify_event_path(now, QUIET)
    assert caplog.text == ""
