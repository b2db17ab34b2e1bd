"""The audit after a lost state: facts that nobody told of end, and all others stay."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, cast
from unittest.mock import Mock

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.cli import gitlab_audit
from projector.cli.gitlab_audit import audit_hook, audit_lost_state
from projector.config.settings import Settings
from projector.errors import OperatorError
from projector.events.model import DEAD_LETTERS, KafkaRecord, Topic
from projector.events.partitioning import partition_of
from projector.feed import producer
from projector.feed.producer import Batch, Message
from projector.gitlab.export import Fact
from projector.gitlab.mapping.state import HeldJob
from projector.gitlab.memory import Memory
from projector.gitlab.sender import Sender
from projector.kafka import topics
from projector.operators import snapshot
from tests import builders
from tests.unit.operators import worlds
from tests.unit.operators.worlds import COMPANY, FOREVER, PARTITIONS, STARTED, World

GONE_ROOT = "40"
# In the partition of the company's root namespace.
SAME_PARTITION = next(
    str(root) for root in range(100, 200) if partition_of(str(root), PARTITIONS) == worlds.HOME
)


class Bridge:
    """What a bridge has told, and would tell of users."""

    def __init__(self, world: World, *told: dict[str, Any]) -> None:
        self.world, self.told = world, list(told)
        self.users: dict[int, dict[str, Any]] = {}
        self.exports = 0

    async def remember_users(self, ids: Collection[int]) -> None:
        known = [self.users[user] for user in ids if user in self.users]
        self.told += known
        await apply(self.world, *known)

    async def leave_out_jobs(self, held: Collection[HeldJob]) -> None:
        self.told = [
            message
            for message in self.told
            if message["type"] != "job.started"
            or not any(
                job.id == message["data"]["id"]
                and (job.is_finished or job.root != message["partitionkey"])
                for job in held
            )
        ]

    async def facts(self) -> list[Fact]:
        self.exports += 1
        return [
            (
                message["type"],
                "*" if message["type"] == "user.set" else message["partitionkey"],
                json.dumps(message["data"]),
            )
            for message in self.told
        ]


async def apply(world: World, *messages: dict[str, Any]) -> None:
    """Apply to each root's partition, and broadcasts to all."""
    for partition in world.partitions:
        own = [
            m for m in messages
            if m["type"] == "user.set" or worlds.home_of(m) == partition.number
        ]  # fmt: skip
        await partition.apply(*own)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    server = fakeredis.FakeServer()

    @asynccontextmanager
    async def connected(settings: Settings) -> AsyncIterator[Any]:
        yield fakeredis.FakeAsyncRedis(server=server)

    monkeypatch.setattr(gitlab_audit, "connected", connected)
    monkeypatch.setattr(gitlab_audit, "PAUSE_S", 0.01)
    monkeypatch.setattr(gitlab_audit, "PATIENCE_S", 0.2)
    return server


@pytest.fixture
async def world(server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose workers apply what an audit feeds."""
    world = World(server)
    await world.claim()
    await apply(world, *COMPANY, STARTED)

    async def put(message: Message) -> None:
        owner = world.partitions[message.partition]
        offset = owner.next[Topic(message.topic)]
        record = KafkaRecord(
            Topic(message.topic), message.partition, offset, await owner.store.now(), None,
            message.value, message.headers,
        )  # fmt: skip
        assert owner.projection.apply(record) is None
        owner.next[record.topic] = offset + 1
        await owner.write()

    @asynccontextmanager
    async def sending(settings: Settings) -> AsyncIterator[Batch]:
        batch = Mock(spec=Batch)
        batch.send = put
        yield batch

    async def check_topics(settings: Settings) -> dict[str, int]:
        return {**dict.fromkeys(Topic, PARTITIONS), DEAD_LETTERS: 1}

    async def refuse_nothing(settings: Settings) -> None:
        return None

    monkeypatch.setattr(producer, "sending", sending)
    monkeypatch.setattr(topics, "check_topics", check_topics)
    monkeypatch.setattr(topics, "refuse_producers_time", refuse_nothing)
    return world


def live(world: World) -> set[str]:
    return {
        key
        for partition in world.partitions
        for key, fact in partition.projection.facts.items()
        if fact.data is not None and not getattr(fact.data, "finished", False)
    }


async def test_all_that_was_not_told_ends(world: World) -> None:
    await apply(world, builders.group(40, root=GONE_ROOT), builders.agent(9, 7))
    told = [m for m in COMPANY if m["type"] != "member.set"]
    await audit_lost_state(Settings(), Bridge(world, *told))
    assert live(world) == {"3/group/3", "3/project/7", "3/agent/5", "3/agent/6"}


async def test_nothing_that_was_told_is_touched(world: World) -> None:
    before = live(world)
    await audit_lost_state(Settings(), Bridge(world, *COMPANY, STARTED))
    assert live(world) == before


async def test_a_user_who_is_active_again_is_told(world: World) -> None:
    await apply(world, builders.user(1, state="blocked"), builders.user(2, state="blocked"))
    bridge = Bridge(world, *COMPANY, STARTED)
    bridge.users = {1: builders.user(1, state="active")}  # GitLab no longer has user 2
    await audit_lost_state(Settings(), bridge)
    states = [
        getattr(fact.data, "state", None)
        for partition in world.partitions
        for key, fact in partition.projection.facts.items()
        if key == "*/user/1"
    ]
    assert states == ["active"] * PARTITIONS
    assert "*/user/2" in live(world)


async def test_nothing_ends_before_workers_have_applied_what_was_told(world: World) -> None:
    await apply(world, builders.agent(9, 7))
    late = builders.agent(10, 7)
    with pytest.raises(OperatorError, match=r"workers have not applied.*3/agent/10"):
        await audit_lost_state(Settings(), Bridge(world, *COMPANY, STARTED, late))
    assert "3/agent/9" in live(world)


async def test_a_company_that_is_gone_ends_altogether(world: World) -> None:
    await audit_lost_state(Settings(), Bridge(world))
    assert live(world) == set()


async def test_a_job_that_has_ended_for_good_holds_nothing_up(world: World) -> None:
    """Its project left the root namespace and came back, or GitLab is from a backup."""
    await apply(world, builders.removed("job", 9))
    await audit_lost_state(Settings(), Bridge(world, *COMPANY, STARTED))
    assert "3/job/9" not in live(world)


async def test_an_end_that_comes_before_the_start_holds_nothing_up(world: World) -> None:
    late = builders.started(10, 7, expires_at=FOREVER)
    await apply(world, builders.removed("job", 10))
    await audit_lost_state(Settings(), Bridge(world, *COMPANY, STARTED, late))
    assert "3/job/10" not in live(world)
    assert "3/job/9" in live(world)


@pytest.mark.parametrize(("root", "applied"), [("5", True), ("5", False), (SAME_PARTITION, False)])
async def test_a_job_of_another_root_namespace_ends(
    world: World, root: str, *, applied: bool
) -> None:
    """Its project moved: here a partition refuses the second start, there it takes it."""
    told = [
        builders.group(int(root), root=root),
        builders.project(7, int(root), root=root),
    ]
    moved = builders.started(9, 7, expires_at=FOREVER, root=root, token=None)
    await apply(world, *told, *([moved] if applied else []))
    await audit_lost_state(Settings(), Bridge(world, *told, moved))
    assert live(world) == {f"{root}/group/{root}", f"{root}/project/7"}


async def test_an_end_that_workers_apply_during_the_audit_holds_nothing_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = Bridge(world, *COMPANY, STARTED)
    remember = bridge.remember_users

    async def end_then_remember(ids: Collection[int]) -> None:
        await apply(world, builders.removed("job", 9))
        await remember(ids)

    monkeypatch.setattr(bridge, "remember_users", end_then_remember)
    await audit_lost_state(Settings(), bridge)
    assert "3/job/9" not in live(world)
    assert bridge.exports == 2


async def test_an_outage_of_redis_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [RedisConnectionError("away"), RedisConnectionError("away")]
    read = snapshot.read_snapshot

    async def flaky(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return await read(*args)

    monkeypatch.setattr(snapshot, "read_snapshot", flaky)
    await audit_lost_state(Settings(), Bridge(world))
    assert live(world) == set()


async def test_the_audit_waits_until_workers_have_written_all_partitions(
    server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = asyncio.Event()

    async def audit(_settings: Settings, _told: object) -> None:
        audited.set()

    monkeypatch.setattr(gitlab_audit, "audit_lost_state", audit)
    hook = audit_hook(Settings())
    task = asyncio.ensure_future(hook(cast(Memory, Quiet()), cast(Sender, None)))
    await asyncio.sleep(0.1)
    assert not audited.is_set()
    world = World(server)
    await world.claim()
    await asyncio.sleep(0.1)
    assert not audited.is_set()
    await apply(world)
    await asyncio.wait_for(task, 5)
    assert audited.is_set()


class Quiet:
    """The memory of a bridge that is at rest."""

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        yield None
