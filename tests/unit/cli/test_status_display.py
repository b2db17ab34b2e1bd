"""The status on a terminal, as lines, and its changes."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from rich.console import Console

from projector.cli.status_display import changes, lines, table
from tests.unit.operators.stored_status import StoredStatus


@pytest.fixture
async def world() -> AsyncIterator[StoredStatus]:
    world = StoredStatus()
    await world.partitions(1)
    yield world
    await world.redis.aclose()


async def test_the_texts_of_others_reach_no_terminal_as_they_are(world: StoredStatus) -> None:
    await world.stamp(0, 0, owner="evil\x1b[2J\r\n" + "x" * 9999)
    found = await world.read()
    assert len(found.partitions[0].owner or "") <= 200
    shown = [*lines(found), *changes(None, found)]
    assert all(line.isprintable() for line in shown)
    assert r"evil\x1b[2J" in shown[1]


async def test_a_small_terminal_shows_the_worst_first(world: StoredStatus) -> None:
    await world.partitions(50)
    for partition in range(50):
        await world.stamp(partition, 20 if partition == 33 else 0, owner="vm-8130-a0ae6a80")
    console = Console(width=80, height=24)
    with console.capture() as capture:
        console.print(table(await world.read(), 24))
    text = capture.get().splitlines()
    assert len(text) <= 24
    assert text[2].startswith("33")
    assert "stale" in text[2]
    assert "vm-8130-a0ae6a80" in text[2]
    assert any("and 36 more partitions" in line for line in text)


async def test_a_line_says_what_changed(world: StoredStatus) -> None:
    await world.partitions(2)
    for partition in range(2):
        await world.stamp(partition, 0)
    before = await world.read()
    assert len(list(changes(None, before))) == 2
    assert list(changes(before, await world.read())) == []
    await world.stamp(1, 3)
    (line,) = changes(before, await world.read())
    assert "partition 1: late, age 3." in line


async def test_a_watch_that_prints_changes_says_when_kafka_is_silent_and_when_it_answers_again(
    world: StoredStatus,
) -> None:
    """The lag and the dead letters are missing meanwhile, and no partition changes."""
    answers = await world.read()
    silent = msgspec.structs.replace(answers, kafka="Kafka at k:1 does not answer (since then)")
    (line,) = changes(answers, silent)
    assert line.endswith("no lag, no dead letters: Kafka at k:1 does not answer (since then)")
    assert list(changes(silent, silent)) == []
    (line,) = changes(silent, answers)
    assert line.endswith("lag and dead letters are known again")


async def test_without_sources_no_line_is_about_them(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    await world.publish(0)
    found = await world.read()
    assert not any("source" in line for line in [*lines(found), *changes(None, found)])


async def test_a_silent_source_has_a_row_with_the_partitions_that_wait(
    world: StoredStatus,
) -> None:
    await world.partitions(12)
    for partition in range(12):
        await world.stamp(partition, 0)
        await world.publish(partition, sources={"hr": 0.0})
    for partition in range(10):
        await world.stamp(partition, 15)
        await world.silence(partition, "gitlab", 15)
        await world.publish(partition, sources={"gitlab": 15.0, "hr": 0.0})
    found = await world.read()
    rows = list(lines(found))[13:18]
    assert rows[0] == rows[4] == ""
    assert rows[1].split("  ")[0] == "source"
    assert rows[2].split() == [
        "gitlab", "silent", "15.0", "10:", *(f"{n}," for n in range(8)), "...",
    ]  # fmt: skip
    assert rows[3].split() == ["hr", "heard", "0.0", "none"]


async def test_a_small_terminal_has_room_for_the_sources(world: StoredStatus) -> None:
    await world.partitions(50)
    for partition in range(50):
        await world.stamp(partition, 20)
        await world.silence(partition, f"a-source-with-a-long-name-{partition % 7}", 20)
        await world.publish(partition)
    console = Console(width=80, height=24)
    with console.capture() as capture:
        console.print(table(await world.read(), 24))
    text = capture.get().splitlines()
    assert len(text) <= 24
    assert sum("silent" in line for line in text) == 5
    assert sum("stale" in line and "host" in line for line in text) >= 5


async def test_a_line_says_that_a_source_has_fallen_silent_and_that_it_is_heard_again(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 0)
    await world.publish(0, sources={"gitlab": 0.1})
    before = await world.read()
    assert any("source gitlab: heard, age 0." in line for line in changes(None, before))
    await world.silence(0, "gitlab", 1.5)
    during = await world.read()
    (line,) = changes(before, during)
    assert line.endswith("source gitlab: late, age 0.0 s, partitions that wait: all 1")
    (line,) = changes(during, before)
    assert line.endswith("source gitlab: heard, age 0.0 s, partitions that wait: none")
