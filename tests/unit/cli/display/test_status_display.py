"""The status on a terminal and in a pipe, and the lines of its changes."""

import re
from collections.abc import AsyncIterator

import msgspec
import pytest
from rich.console import Console

from projector.cli.display.status_changes import changes
from projector.cli.display.status_display import fitting_picture, trouble_picture
from projector.cli.status_command import stamped_since
from projector.events.model import Topic
from projector.operators.diagnosis.no_status import redis_unreachable
from projector.operators.status import deployment_of
from projector.operators.status_model import KafkaFault, KafkaTrouble, PartitionStatus, Status
from tests.unit.operators.stored_status import OWNER, SETTINGS, StoredStatus, ends

AWAY = KafkaTrouble(KafkaFault.UNREACHABLE, "Kafka at k:1 does not answer", 1_800_000_000_000)


@pytest.fixture
async def world() -> AsyncIterator[StoredStatus]:
    world = StoredStatus()
    await world.partitions(1)
    yield world
    await world.redis.aclose()


def drawn(
    found: Status, *, width: int = 100, height: int | None = None, unfolded: bool = False
) -> list[str]:
    console = Console(width=width, height=height or 1000)
    with console.capture() as capture:
        console.print(fitting_picture(console, found, unfolded=unfolded))
    return [line.rstrip() for line in capture.get().splitlines()]


def row(text: list[str], begin: str) -> list[str]:
    (found,) = (line.split() for line in text if line.startswith(begin))
    return found


async def test_the_texts_of_others_reach_no_terminal_as_they_are(world: StoredStatus) -> None:
    await world.stamp(0, 0, owner="evil\x1b[2J\r\n" + "x" * 9999)
    found = await world.read()
    assert len(found.partitions[0].owner or "") <= 200
    shown = [*drawn(found, width=400), *changes(None, found)]
    assert all(line.isprintable() for line in shown)
    assert any(r"evil\x1b[2J" in line for line in shown)


async def test_the_first_line_names_the_deployment(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    first, second, *_ = drawn(await world.read())
    assert "Redis redis://r:2  Kafka k:1  no prefix  version " in first
    assert second == "All is well."


async def test_the_causes_come_before_the_rows_the_worst_first(world: StoredStatus) -> None:
    await world.partitions(3)
    await world.stamp(0, 0)
    await world.stamp(1, 20, owner="host-2-efgh")
    await world.stamp(2, 20, owner="host-2-efgh")
    text = drawn(await world.read(ends(partitions=3, dead_letters=2)))
    assert text[1].startswith("degraded The worker host-2-efgh is silent. Since ")
    assert text[1].endswith(" (20 s).")
    assert text[2].strip() == (
        "Lookups of partitions 1 and 2 and of unknown tokens get 503; all others are answered."
    )
    assert any(line.strip() == "docs/runbook.md#worker-gone" for line in text)
    (notice,) = (n for n, line in enumerate(text) if line.startswith("notice"))
    (heading,) = (n for n, line in enumerate(text) if line.startswith("partition "))
    assert notice < heading
    assert text[heading + 2].split()[:3] == ["1,", "2", "stale"]
    assert text[heading + 3].split()[:2] == ["0", "fresh"]


async def test_the_partitions_of_one_worker_and_state_share_a_row(world: StoredStatus) -> None:
    await world.partitions(20)
    for partition in range(20):
        await world.stamp(partition, 5 if partition == 3 else 0)
        await world.publish(partition)
    found = await world.read(ends(partitions=20, end=5))
    text = drawn(found)
    assert row(text, "3 ")[1] == "late"
    assert row(text, "0-2, 4-19")[2] == "fresh"
    assert row(text, "0-2, 4-19")[-5:] == ["95", "38", "0.0", "-", OWNER]
    assert len(drawn(found, unfolded=True)) == len(text) + 18


async def test_the_worker_that_was_silent_longest_comes_first(world: StoredStatus) -> None:
    await world.partitions(3)
    await world.stamp(0, 0, owner="a")
    await world.stamp(1, 5.5, owner="b")
    await world.stamp(2, 8, owner="c")
    last = drawn(await world.read())[-1]
    assert re.fullmatch(
        r"3 workers: c \(1 partition, silent for 8\.\d s\), "
        r"b \(1 partition, silent for 5\.\d s\), a \(1 partition\)",
        last,
    )


@pytest.mark.parametrize("width", [80, 100])
async def test_nothing_is_wider_or_higher_than_the_terminal(
    world: StoredStatus, width: int
) -> None:
    await world.partitions(50)
    for partition in range(50):
        owner = f"vm-{partition}-a0ae6a80"
        await world.stamp(partition, 20 if partition == 33 else 0, owner=owner)
    text = drawn(await world.read(ends(partitions=50)), width=width, height=24)
    assert len(text) <= 24
    assert all(len(line) <= width for line in text)
    assert row(text, "33")[1] == "stale"
    assert any(line.endswith("more rows, less urgent") for line in text)


def test_without_redis_there_is_the_cause_and_what_to_do() -> None:
    now = 1_800_000_000_000
    cause = redis_unreachable("Redis at redis://r:2 cannot be reached: refused", now - 12_000)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(trouble_picture(deployment_of(SETTINGS), cause, now))
    text = capture.get()
    assert "outage Redis cannot be reached. Since" in text
    assert "(12 s)." in text
    assert "Lookups get 503." in text
    assert "docs/runbook.md#redis-unreachable" in text


async def test_a_line_says_what_changed(world: StoredStatus) -> None:
    await world.partitions(3)
    for partition in range(3):
        await world.stamp(partition, 0)
    before = await world.read()
    (first,) = changes(None, before)
    assert f"partitions 0-2: fresh, age 0.0 s, owner {OWNER}" in first
    assert list(changes(before, await world.read())) == []
    await world.stamp(1, 3)
    late = await world.read()
    line, cause = changes(before, late)
    assert "partition 1: late, age 3." in line
    assert "degraded: Partition 1 is behind, although the worker is there. Lookups are" in cause
    assert list(changes(late, before))[-1].endswith("all is well")


async def test_a_watch_that_prints_changes_says_when_kafka_is_silent_and_when_it_answers_again(
    world: StoredStatus,
) -> None:
    """The lag and the dead letters are missing meanwhile, and no partition changes."""
    await world.stamp(0, 0)
    answers = await world.read(ends())
    silent = await world.read(trouble=AWAY)
    line, cause = changes(answers, silent)
    assert "no lag, no dead letters: Kafka at k:1 does not answer (since 2027-" in line
    assert "notice: Kafka cannot be reached from here, but workers go on." in cause
    assert list(changes(silent, silent)) == []
    line, _ = changes(silent, answers)
    assert line.endswith("lag and dead letters are known again")


async def test_a_line_says_that_a_cause_has_become_an_outage(world: StoredStatus) -> None:
    await world.stamp(0, 5)
    late = await world.read(trouble=AWAY)
    await world.stamp(0, 20)
    _, cause = changes(late, await world.read(trouble=AWAY))
    assert "outage: Kafka cannot be reached. Lookups get 503." in cause


async def test_without_sources_no_line_is_about_them(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    await world.publish(0)
    found = await world.read()
    assert not any("source" in line for line in [*drawn(found), *changes(None, found)])


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
    text = drawn(await world.read())
    assert text[1].startswith("degraded The source gitlab has been silent. Since ")
    _, state, age, *waiting = row(text, "gitlab")
    assert (state, waiting) == ("silent", ["10:", "0-9"])
    assert float(age) >= 15
    _, state, _, *waiting = row(text, "hr")
    assert (state, waiting) == ("heard", ["none"])


async def test_a_small_terminal_has_room_for_the_sources(world: StoredStatus) -> None:
    await world.partitions(50)
    for partition in range(50):
        await world.stamp(partition, 20, owner=f"host-{partition}")
        await world.silence(partition, f"a-source-with-a-long-name-{partition % 2}", 20)
        await world.publish(partition)
    text = drawn(await world.read(), height=40)
    assert len(text) <= 40
    assert sum("a-source" in line and " silent " in line for line in text) >= 2
    assert sum("stale" in line and "host" in line for line in text) >= 5


async def test_a_line_says_that_a_source_has_fallen_silent_and_that_it_is_heard_again(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 0)
    await world.publish(0, sources={"gitlab": 0.1})
    before = await world.read()
    assert any("source gitlab: heard, age " in line for line in changes(None, before))
    await world.silence(0, "gitlab", 1.5)
    during = await world.read()
    line, cause = changes(before, during)
    assert re.search(r"source gitlab: late, age \d+\.\d s, partitions that wait: all 1$", line)
    assert "The source gitlab has been silent." in cause
    heard, well = changes(during, before)
    assert re.search(r"source gitlab: heard, age \d+\.\d s, partitions that wait: none$", heard)
    assert well.endswith("all is well")


async def test_a_stamp_from_before_the_command_does_not_end_its_wait(world: StoredStatus) -> None:
    """The worker that wrote it may have ended since."""
    await world.partitions(2)
    await world.stamp(0, 0.3)
    await world.stamp(1, 0.3)
    found = await world.read()
    assert found.is_fresh
    assert not stamped_since(found, found.at)
    later = await world.read()
    first, second = later.partitions
    renewed = msgspec.structs.replace(first, age=0.0)
    assert not stamped_since(replace(later, [renewed, second]), found.at)
    assert stamped_since(replace(later, [renewed, renewed]), found.at)


def replace(found: Status, partitions: list[PartitionStatus]) -> Status:
    return msgspec.structs.replace(found, at=found.at + 1, partitions=partitions)


async def test_a_lag_is_summed_and_the_cause_names_its_topics(world: StoredStatus) -> None:
    await world.partitions(2)
    for partition in range(2):
        await world.stamp(partition, 5, **{f"offset:{topic}": 4 for topic in Topic})
    await world.stamp(0, 0, **{"offset:membership": 1})
    await world.stamp(1, 5, **{"offset:membership": 1})
    text = drawn(await world.read(ends(partitions=2)))
    assert row(text, "1  ")[3] == "3"
    assert "(records of Kafka not applied: membership 3)" in [line.strip() for line in text]
