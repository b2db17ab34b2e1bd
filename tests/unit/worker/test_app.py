"""The wiring's own checks; the rest of the worker is tested on real brokers."""

import socket
from pathlib import Path
from typing import NamedTuple

import pytest

from projector.config.settings import Settings
from projector.errors import NotCopartitionedError, WebPortError
from projector.events.model import Topic
from projector.kafka.faust_consumer import FETCH_WAIT_MS
from projector.process import free_port
from projector.worker.app import copartitioned, create_app, run_worker
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


async def test_a_web_address_of_another_machine_is_refused() -> None:
    with pytest.raises(WebPortError, match=r"of 192\.0\.2\.1 .*PROJECTOR_WORKER_WEB_HOST"):
        await run_worker(Settings(worker_web_host="192.0.2.1"))


async def test_unless_told_the_web_page_listens_on_loopback_alone(tmp_path: Path) -> None:
    """Faust's own default is every interface of the machine."""
    settings = Settings(worker_web_port=free_port())
    app = create_app(settings, OwnerGroup(lambda partition: pytest.fail("no owner")), str(tmp_path))
    assert (app.conf.web_bind, app.conf.web_port) == ("127.0.0.1", settings.worker_web_port)


async def test_a_web_port_in_use_is_named_before_anything_else() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WebPortError, match=rf"port {port} is.*PROJECTOR_WORKER_WEB_PORT"):
            await run_worker(Settings(worker_web_port=port))
