"""The status of sources, from stamps, silences and activities; no clock of a worker decides."""

import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from projector.operators.source_status import MAX_SOURCES, SourceHealth
from projector.store import activity, schema
from projector.store.activity import PartitionActivity
from tests.unit.operators.stored_status import OWNER, StoredStatus

HEARD, UNKNOWN, LATE, SILENT = SourceHealth


@pytest.fixture
async def world() -> AsyncIterator[StoredStatus]:
    world = StoredStatus()
    await world.partitions(2)
    yield world
    await world.redis.aclose()


async def test_without_sources_there_are_none(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    await world.publish(0)
    assert (await world.read()).sources == []


async def test_a_fresh_partition_proves_that_its_sources_are_heard(world: StoredStatus) -> None:
    """Whatever the age of the last activity: the stamp followed a heartbeat."""
    for partition in range(2):
        await world.stamp(partition, 0.3)
        await world.publish(partition, sources={"gitlab": 4.0, "hr": 0.1})
    found = await world.read()
    assert [(s.source, s.state, s.waiting) for s in found.sources] == [
        ("gitlab", HEARD, []), ("hr", HEARD, []),
    ]  # fmt: skip
    assert found.sources[0].age == pytest.approx(0.3, abs=0.2)
    assert found.is_fresh


async def test_a_stamp_of_an_owner_before_the_source_was_named_proves_nothing(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 0.3, stamp_epoch=6)
    await world.publish(0, sources={"gitlab": None})
    (source,) = (await world.read()).sources
    assert (source.state, source.age) == (SILENT, None)


@pytest.mark.parametrize(
    ("vouched", "state"), [(1.0, LATE), (2.5, LATE), (9.0, LATE), (11.0, SILENT), (None, SILENT)]
)
async def test_a_source_that_partitions_wait_for_is_late_and_beyond_the_bound_silent(
    world: StoredStatus, vouched: float | None, state: SourceHealth
) -> None:
    for partition in range(2):
        await world.stamp(partition, vouched or 20)
        await world.publish(partition, sources={"gitlab": vouched}, epoch=8)
        await world.silence(partition, "gitlab", vouched)
    found = await world.read()
    (source,) = found.sources
    assert (source.source, source.state, source.waiting) == ("gitlab", state, [0, 1])
    assert source.age is None if vouched is None else source.age == pytest.approx(vouched, abs=0.5)
    assert not found.is_fresh


async def test_a_source_that_some_partition_hears_is_late_while_another_waits_for_it(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 0.3)
    await world.publish(0, sources={"gitlab": 0.2})
    await world.stamp(1, 30)
    await world.publish(1, sources={"gitlab": 30.0})
    await world.silence(1, "gitlab", 30)
    (source,) = (await world.read()).sources
    assert (source.state, source.waiting) == (LATE, [1])
    assert source.age == pytest.approx(0.3, abs=0.2)


@pytest.mark.parametrize("ahead", [-300.0, 0.0, 300.0])
async def test_the_workers_clock_does_not_matter(world: StoredStatus, ahead: float) -> None:
    """An activity of 20 s ago, by a worker whose clock is minutes off: heard 3 s before that."""
    await world.stamp(0, 40)
    await world.publish(0, sources={"gitlab": 3.0}, clock_ahead=ahead, written_ago=20)
    (source,) = (await world.read()).sources
    assert source.state is UNKNOWN
    assert source.age == pytest.approx(23, abs=1)


@pytest.mark.parametrize(
    ("reported", "state"), [(0.2, HEARD), (1.9, HEARD), (3.0, LATE), (11.0, SILENT), (None, SILENT)]
)
async def test_a_report_of_an_owner_that_waits_for_another_source_counts(
    world: StoredStatus, reported: float | None, state: SourceHealth
) -> None:
    """The hash names one source at a time; owners report of all every five seconds."""
    await world.stamp(0, 60)
    await world.silence(0, "gitlab", 60)
    await world.publish(0, sources={"gitlab": 60.0, "hr": reported}, written_ago=4, epoch=8)
    found = {s.source: (s.state, s.waiting) for s in (await world.read()).sources}
    assert found == {"gitlab": (SILENT, [0]), "hr": (state, [] if state is HEARD else [0])}


async def test_without_a_worker_no_source_is_blamed(world: StoredStatus) -> None:
    await world.stamp(0, 12)
    await world.publish(0, sources={"gitlab": 0.1, "hr": None}, written_ago=12)
    found = await world.read()
    assert {s.source: s.state for s in found.sources} == {"hr": UNKNOWN, "gitlab": UNKNOWN}
    assert not found.is_fresh


async def test_after_seven_seconds_without_a_report_a_source_is_unknown(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 8.5)
    await world.publish(0, sources={"gitlab": 0.5}, written_ago=8)
    (source,) = (await world.read()).sources
    assert source.state is UNKNOWN


async def test_the_last_word_of_a_worker_that_is_gone_blames_no_source(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 12)
    await world.silence(0, "gitlab", 12, noted_ago=8)
    await world.publish(0, sources={"gitlab": 4.0}, written_ago=8)
    (source,) = (await world.read()).sources
    assert (source.state, source.waiting) == (UNKNOWN, [])
    assert source.age == pytest.approx(12, abs=1)


async def test_a_note_of_a_former_version_counts_for_nothing(world: StoredStatus) -> None:
    """The version before this one never removes it."""
    for partition in range(2):
        await world.stamp(partition, 0.3)
        await world.silence(partition, "gitlab", 60, noted_ago=60)
    found = await world.read()
    assert found.sources == []
    assert found.is_fresh


async def test_a_source_that_the_new_owner_does_not_name_is_gone(world: StoredStatus) -> None:
    """The activity is the former owner's: the source was taken out of PROJECTOR_SOURCES."""
    await world.stamp(0, 0, sources="")
    await world.publish(0, sources={"gitlab": 30.0}, epoch=6)
    assert (await world.read()).sources == []


async def test_partitions_whose_owner_does_not_name_a_source_are_listed(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 0, sources="gitlab,hr")
    await world.publish(0, sources={"gitlab": 0.1, "hr": 0.1})
    await world.stamp(1, 0, sources="hr")
    await world.publish(1, sources={"hr": 0.1})
    found = await world.read()
    assert {s.source: s.ignored_by for s in found.sources} == {"gitlab": [1], "hr": []}
    assert {s.state for s in found.sources} == {HEARD}
    assert not found.is_fresh
    (cause,) = found.causes
    assert cause.name == "source-ignored"
    assert cause.what == "The workers of partition 1 do not wait for the source gitlab."
    assert cause.advice.startswith("Set PROJECTOR_SOURCES alike for all workers")


async def test_times_from_the_future_count_as_none(world: StoredStatus) -> None:
    """A failover led to a server whose clock is behind."""
    await world.stamp(0, -60)
    await world.silence(0, "gitlab", -60)
    await world.publish(0, sources={"gitlab": None})
    (source,) = (await world.read()).sources
    assert (source.state, source.age) == (SILENT, None)


async def test_the_worst_come_first(world: StoredStatus) -> None:
    await world.publish(0, sources={"a": 0.1, "b": 11.0, "c": None, "d": 5.0, "e": 30.0})
    found = (await world.read()).sources
    assert [(s.source, s.state) for s in found] == [
        ("c", SILENT), ("e", SILENT), ("b", SILENT), ("d", LATE), ("a", HEARD),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["GitLab", "", "a" * 64, "a b", "\x1b[2J", "<b>", ".a"])
async def test_an_activity_with_a_name_that_is_none_counts_as_none(
    world: StoredStatus, name: str
) -> None:
    await world.stamp(0, 0)
    await world.publish(0, sources={name: 0.1})
    found = await world.read()
    assert found.sources == []
    assert found.partitions[0].live_tokens is None


async def test_of_very_many_sources_the_worst_are_shown(world: StoredStatus) -> None:
    await world.publish(0, sources={f"s{n}": 0.1 for n in range(500)} | {"bad": None})
    found = (await world.read()).sources
    assert len(found) == MAX_SOURCES
    assert found[0].source == "bad"


async def test_an_activity_of_an_older_worker_names_no_source(world: StoredStatus) -> None:
    doing = msgspec.to_builtins(PartitionActivity(7, OWNER, int(time.time() * 1000), 2, 5, 0, []))
    del doing["sources"]
    await world.redis.set(schema.activity_key(0), msgspec.json.encode(doing))
    await world.stamp(0, 0)
    found = await world.read()
    assert (found.partitions[0].live_tokens, found.sources) == (2, [])
    assert activity.decode_activity(msgspec.json.encode(doing)) is not None
