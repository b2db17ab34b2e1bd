"""What Faust fetches once more is not delivered once more, and nothing else is left out."""

from pathlib import Path
from typing import NamedTuple

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
