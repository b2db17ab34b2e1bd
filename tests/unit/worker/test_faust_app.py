"""The Faust app's own checks; the rest of it is tested on real brokers."""

import asyncio
from pathlib import Path
from typing import NamedTuple

import pytest
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from projector.config.settings import Settings
from projector.errors import NotCopartitionedError
from projector.events.model import Topic
from projector.kafka.faust_consumer import FETCH_WAIT_MS
from projector.ports import free_port
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


async def test_an_agent_hands_over_all_that_has_arrived_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its queue would fill up, and Faust pauses a partition whose queue is full."""
    owners = OwnerGroup(lambda partition: pytest.fail("no owner"))
    taken: list[int] = []
    monkeypatch.setattr(owners, "enqueue", lambda record, _: taken.append(record.offset))
    app = create_app(SETTINGS, owners, str(tmp_path))
    agent = app.agents[f"enqueue-{Topic.JOB_LIFECYCLE}"]
    actor = agent()
    task = asyncio.ensure_future(actor)
    await asyncio.sleep(0)
    for offset in range(300):
        message = ConsumerMessage(
            "x.job-lifecycle", 0, offset, 0.0, 0, (), None, b"{}", None, tp=TP("x.job-lifecycle", 0)
        )
        actor.stream.channel.queue.put_nowait(await actor.stream.channel.decode(message))
    for _ in range(3):
        await asyncio.sleep(0)
    assert taken == list(range(300))
    actor.cancel()
    await asyncio.wait_for(task, 1)


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
