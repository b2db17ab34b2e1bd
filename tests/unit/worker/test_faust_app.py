"""The Faust app's own checks; the rest of it is tested on real brokers."""

from pathlib import Path
from typing import NamedTuple

import pytest

from projector.config.settings import Settings
from projector.errors import NotCopartitionedError
from projector.events.model import Topic
from projector.kafka.faust_consumer import FETCH_WAIT_MS
from projector.process import free_port
from projector.worker.faust_app import copartitioned, create_app
from projector.worker.owner_group import OwnerGroup

SETTINGS = Settings(topic_prefix="x.")


class TopicPartition(NamedTuple):
    topic: str
    partition: int


def assignment(**partitions: list[int]) -> set[TopicPartition]:
    names = {
        "membership": Topic.MEMBERSHIP,
        "agents": Topic.AGENT_CONFIG,
        "jobs": Topic.JOB_LIFECYCLE,
    }
    return {TopicPartition(f"x.{names[t]}", p) for t, ps in partitions.items() for p in ps}


def test_an_assignment_has_the_same_partitions_of_each_topic() -> None:
    assigned = assignment(membership=[1, 3], agents=[1, 3], jobs=[1, 3])
    assert copartitioned(assigned, SETTINGS) == {1, 3}
    assert copartitioned(set(), SETTINGS) == set()


def test_any_other_assignment_is_refused() -> None:
    """Its views would be computed without the memberships or the agents."""
    with pytest.raises(NotCopartitionedError, match=r"'agent-config': \[1, 2\]"):
        copartitioned(assignment(membership=[1], agents=[1, 2], jobs=[1]), SETTINGS)


async def test_the_web_page_listens_where_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(worker_web_host="0.0.0.0")
    app = create_app(settings, OwnerGroup(lambda partition: pytest.fail("no owner")), str(tmp_path))
    assert app.conf.web_bind == "0.0.0.0"


async def test_brokers_hold_no_fetch_for_long(tmp_path: Path) -> None:
    """Or busy partitions wait for one that asks for idle ones alone: 1.5 s as Faust has it."""
    app = create_app(SETTINGS, OwnerGroup(lambda partition: pytest.fail("no owner")), str(tmp_path))
    thread = app.consumer._thread
    consumer = thread._create_worker_consumer(app.transport)
    assert consumer._fetch_max_wait_ms == FETCH_WAIT_MS
    await consumer.stop()
    thread.thread_loop.close()


async def test_unless_told_the_web_page_listens_on_loopback_alone(tmp_path: Path) -> None:
    """Faust's own default is every interface of the machine."""
    settings = Settings(worker_web_port=free_port())
    app = create_app(settings, OwnerGroup(lambda partition: pytest.fail("no owner")), str(tmp_path))
    assert (app.conf.web_bind, app.conf.web_port) == ("127.0.0.1", settings.worker_web_port)
