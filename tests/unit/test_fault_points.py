"""What `make faults` patches in a process is there, and runs: else its suites prove nothing."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from projector.events.heartbeats import Heartbeat
from projector.events.model import Topic
from projector.store import lua_scripts, schema
from projector.worker.owner_group import OwnerGroup
from projector.worker.vouchers import SourceMark, Vouchers
from tests import builders
from tests.builders import digest
from tests.faults import fault_injection, mutations
from tests.faults.mutations import MUTATIONS
from tests.unit.api.lookup_world import PARTITIONS, LookupWorld
from tests.unit.worker.owned_partition import COMPANY, QUICK, Setup, gets, is_claimed_above, until

FAULTS = Path(__file__).parents[1] / "faults"
Story = Callable[[Setup], Any]


@pytest.fixture
async def setup() -> Any:
    setup = Setup()
    yield setup
    await setup.redis.aclose()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of what mutations put in place; afterwards all is as before."""
    made: list[str] = []

    def counted(place: Any, name: str, by: Any) -> None:
        assert hasattr(place, name)

        def call(*args: Any) -> Any:
            made.append(name)
            return by(*args)

        monkeypatch.setattr(place, name, call if callable(by) else by)

    monkeypatch.setattr(mutations, "replace", counted)
    return made


async def gap(setup: Setup) -> None:
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(*COMPANY)[1:])
        await until(lambda: len(setup.acked) == len(COMPANY) - 1)


async def emptied(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        epoch = owner.version.epoch
        await setup.redis.flushall()
        await until(lambda: is_claimed_above(setup, epoch))
        await until(lambda: setup.field("stamp"))


async def idle(setup: Setup) -> None:
    async with setup.owning():
        pass


@pytest.mark.parametrize(
    ("name", "story", "calling"),
    [
        ("delivery check off", gap, {"catch_up"}),
        ("heal off", emptied, {"_heal"}),
        ("freshness off", idle, {"_ask"}),
        ("server change unnoticed", idle, {"refuse_changed_server", "identity"}),
        ("server known by its connection", idle, {"note", "identity"}),
        ("every clock reading believed", idle, {"note", "expected_time"}),
        ("sweep off", idle, {"run_portion"}),
        ("overlay off", idle, {"renew"}),
    ],
)
async def test_a_mutation_replaces_what_an_owner_calls(
    setup: Setup, calls: list[str], name: str, story: Story, calling: set[str]
) -> None:
    MUTATIONS[name]()
    await story(setup)
    assert set(calls) == calling


@pytest.mark.parametrize(
    ("name", "called"), [("latest poll", "known"), ("meetings ignored", "met")]
)
async def test_a_mutation_replaces_what_a_lookup_calls(
    calls: list[str], name: str, called: str
) -> None:
    MUTATIONS[name]()
    world = LookupWorld()
    polling = asyncio.create_task(world.freshness.run("redis://test"))
    await world.redis.set(schema.PARTITIONS_KEY, PARTITIONS)
    await world.put("known")
    await world.stamp()
    await world.polled()
    assert (await world.ask()).status == 200
    assert set(calls) == {called}
    polling.cancel()
    await world.redis.aclose()


async def test_without_the_delivery_check_an_owner_misses_what_faust_skips(
    setup: Setup, calls: list[str]
) -> None:
    MUTATIONS["delivery check off"]()
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(*COMPANY, builders.started(9, 7))[1:])
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        assert setup.kafka.reads == []


@pytest.mark.parametrize(
    ("name", "end", "applied"),
    [("heartbeats without offsets", 11, 4), ("heartbeats without after", 12, 5)],
)
def test_a_mutation_lets_a_heartbeat_vouch_for_too_much(
    calls: list[str], name: str, end: int, applied: int
) -> None:
    vouchers = Vouchers(0, ["gitlab"])

    def missing() -> list[str]:
        vouchers.begin(1)
        vouchers.note(Heartbeat("gitlab", 12, 11, {topic: [5] for topic in Topic}), 0.0)
        vouchers.apply(dict.fromkeys(Topic, applied))
        return vouchers.missing(SourceMark(1, end))

    assert missing() == ["gitlab"]
    MUTATIONS[name]()
    assert missing() == []
    assert calls


async def test_without_healing_views_are_missing(setup: Setup, calls: list[str]) -> None:
    MUTATIONS["heal off"]()
    MUTATIONS["sweep off"]()
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        epoch = owner.version.epoch
        await setup.redis.flushall()
        await until(lambda: is_claimed_above(setup, epoch))
        await until(lambda: setup.field("stamp"))
        assert await setup.agents() is None


async def test_without_fencing_every_script_is_another(setup: Setup, calls: list[str]) -> None:
    names = ("CLAIM", "WRITE_VIEWS", "CHECKPOINT", "STAMP", "FORGET")
    before = {name: getattr(lua_scripts, name) for name in names}
    MUTATIONS["fencing off"]()
    store: Any = setup.new_owner()._store
    registered = {
        "CLAIM": store._claims._script, "WRITE_VIEWS": store._views._write_views,
        "CHECKPOINT": store._checkpoint._script, "STAMP": store._stamps._script,
        "FORGET": store._forget,
    }  # fmt: skip
    for name, script in registered.items():
        assert script.script == getattr(lua_scripts, name) != before[name]


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault_injection's patches end with the test."""
    monkeypatch.setattr(
        fault_injection, "patch",
        lambda owner, name, by: monkeypatch.setattr(owner, name, by(getattr(owner, name))),
    )  # fmt: skip


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("phase", fault_injection.PHASES)
async def test_a_worker_would_be_killed_in_every_phase(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phase: str
) -> None:
    kills: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _signal: kills.append(len(setup.acked)))
    trigger = tmp_path / "trigger"
    fault_injection.kill(phase, 1, str(trigger))
    async with setup.owning() as owner:
        group = OwnerGroup(lambda _: owner, QUICK)
        group._owners[0] = owner
        trigger.touch()
        for record in setup.kafka.add(*COMPANY, builders.started(9, 7)):
            place = (record.topic, record.offset)
            group.enqueue(record, lambda place=place: setup.acked.append(place))  # type: ignore[misc]
        await until(lambda: gets(setup, "token-9", [5]))
        await until(lambda: len(setup.acked) == len(COMPANY) + 1)
    assert kills == [0]


@pytest.mark.usefixtures("patched")
async def test_a_worker_would_be_stopped_at_the_view_of_a_token(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stops: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _signal: stops.append(pid))
    trigger = tmp_path / "trigger"
    trigger.write_text(digest("token-9"))
    fault_injection.stop(str(trigger), "around views")
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        assert len(stops) == 2
    assert not trigger.exists()


@pytest.mark.usefixtures("patched")
async def test_a_worker_would_be_stopped_before_its_line(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stops: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _signal: stops.append(pid))
    (trigger := tmp_path / "trigger").touch()
    fault_injection.stop_before_the_line(str(trigger))
    for _ in range(2):
        await setup.new_owner()._store.overlay.add({"agent:5"})
        assert await setup.redis.exists(schema.OVERLAY)
    assert len(stops) == 1


def test_the_observer_waits_for_every_partition_and_not_for_a_ready_api() -> None:
    """`/health/ready` is 200 with one fresh partition: a fault would end too early."""
    for path in (FAULTS / "observer.py", FAULTS / "scenario.py"):
        text = path.read_text()
        assert "/health/fresh" in text
        assert "/health/ready" not in text
