"""The example senders of heartbeats, killed under traffic: what they vouch for is in Kafka."""

import asyncio
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.events.model import EVENT_TYPES, Topic
from projector.events.partitioning import partition_of
from tests import builders
from tests.integration import servers
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import REPOSITORY, Server, eventually
from tests.integration.test_java_producer import CACHE

SOURCE = "acme"
PYTHON = REPOSITORY / "examples" / "heartbeats.py"
JAVA = REPOSITORY / "examples" / "Heartbeats.java"
SENDERS = ("python", "java")
ROOTS = ("3", "12", "40", "9970")
KILLS = 3


# the source, and the sender that follows it


class Source(Protocol):
    def change(self, event: dict[str, Any]) -> None:
        """Let the change happen in the source."""

    def command(self, deployment: Deployment) -> list[str]:
        """Return the command that starts the sender."""


class Database:
    """The source of heartbeats.py: a database of SQLite."""

    def __init__(self, folder: Path, program: Path = PYTHON) -> None:
        self.file = folder / "acme.db"
        self.program = program

    def change(self, event: dict[str, Any]) -> None:
        row = event["type"], event["partitionkey"], json.dumps(event["data"])
        with sqlite3.connect(self.file, timeout=10) as database:
            database.execute("INSERT INTO changes (type, root, data) VALUES (?, ?, ?)", row)
        database.close()

    def command(self, deployment: Deployment) -> list[str]:
        argv = [sys.executable, str(self.program), deployment.kafka, SOURCE, str(self.file)]
        return [*argv, deployment.prefix]


class GrowingFile:
    """The source of Heartbeats.java, compiled once: a file to which lines are appended."""

    def __init__(self, folder: Path, jars: str) -> None:
        self.file = folder / "changes.ndjson"
        self.file.touch()
        subprocess.run(["javac", "-d", folder, "-cp", jars, JAVA], check=True, timeout=60)
        self.classes = f"{folder}{os.pathsep}{jars}"

    def change(self, event: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def command(self, deployment: Deployment) -> list[str]:
        argv = ["java", "-cp", self.classes, JAVA.stem, deployment.kafka, SOURCE, str(self.file)]
        return [*argv, deployment.prefix]


@pytest.fixture(params=SENDERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """Return the source of each example; skip the one in Java without it."""
    if request.param == "python":
        return Database(tmp_path)
    missing = servers.without_apache_kafka() or (None if shutil.which("javac") else "no javac")
    if missing:
        pytest.skip(f"NO TEST RUNS THE SENDER IN JAVA: {missing}")
    (found,) = CACHE.glob("kafka-*/complete")
    return GrowingFile(tmp_path, f"{found.parent}/*")


@pytest.fixture
def start(deployment: Deployment, tmp_path: Path) -> Iterator[Callable[[Source], Server]]:
    """Return a function that starts a sender; it is killed at the end."""
    started: list[Server] = []

    def run(source: Source) -> Server:
        log = tmp_path / f"sender-{len(started)}.log"
        started.append(Server(source.command(deployment), log, os.environ))
        return started[-1]

    yield run
    for server in started:
        server.kill()


# what is in Kafka


class Found(NamedTuple):
    """A record in Kafka; `timestamp` in ms."""

    partition: int
    offset: int
    timestamp: int
    value: Any


def read(deployment: Deployment, topic: str) -> list[Found]:
    """Return all records of a topic."""
    return asyncio.run(_read(deployment, deployment.prefix + topic))


async def _read(deployment: Deployment, topic: str) -> list[Found]:
    async with AIOKafkaConsumer(bootstrap_servers=deployment.kafka) as consumer:
        count = 1 if topic.endswith("sources") else PARTITIONS
        partitions = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        found: list[Found] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [
                    Found(r.partition, r.offset, r.timestamp, json.loads(r.value)) for r in records
                ]
        return found


# the truth


class Change(NamedTuple):
    """A change of the source, which had happened by `when` (ms)."""

    when: float
    event: dict[str, Any]

    def places(self) -> list[tuple[str, int]]:
        """Return the topic and the partitions that must have it."""
        kind = EVENT_TYPES[self.event["type"]]
        root = partition_of(self.event["partitionkey"], PARTITIONS)
        return [
            (kind.topic, number) for number in (range(PARTITIONS) if kind.broadcast else (root,))
        ]


class Traffic:
    """Changes of the source, one every few milliseconds, until the block ends."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.changes: list[Change] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count(1):
            root = ROOTS[number % len(ROOTS)]
            for event in (
                builders.group(number, path=f"n{number}", root=root),
                builders.user(number, root=root),
                builders.removed("job", number, root=root),
            ):
                self.source.change(event)
                self.changes.append(Change(time.time() * 1000, event))
            if self._ended.wait(0.02):
                return


def lies(deployment: Deployment, changes: list[Change], end: int | None = None) -> list[str]:
    """Return what heartbeats below `end` vouch for although it is not so."""
    at: dict[tuple[str, int, str, int], int] = {
        (topic, r.partition, r.value["type"], r.value["data"]["id"]): r.offset
        for topic in Topic
        for r in reversed(read(deployment, topic))
    }
    beats = read(deployment, "sources")
    return [
        f"heartbeat {beat.offset} of {beat.value['data']}: {topic}-{partition} has {change.event}"
        f" at {offset}"
        for beat in beats[:end]
        if not is_first(beat)
        for change in changes
        # What had happened when `after` was appended had happened when it was acknowledged.
        if change.when < beats[beat.value["data"]["after"]].timestamp
        for topic, partition in change.places()
        for offset in [at.get((topic, partition, change.event["type"], change.event["data"]["id"]))]
        if offset is None or offset >= beat.value["data"]["offsets"][topic][partition]
    ]


def vouched(deployment: Deployment, moment: float) -> bool:
    """Whether a heartbeat in Kafka vouches for all from before `moment`."""
    beats = read(deployment, "sources")
    afters = [beat.value["data"]["after"] for beat in beats]
    return any(after is not None and beats[after].timestamp > moment for after in afters)


def has_beats(deployment: Deployment, count: int) -> bool:
    return len(read(deployment, "sources")) >= count


def until_vouched(deployment: Deployment, sender: Server) -> None:
    moment = time.time() * 1000
    eventually(lambda: vouched(deployment, moment), f"a heartbeat for now: {sender.log()}")


def run_and_kill(
    deployment: Deployment, source: Source, start: Callable[[Source], Server], kills: int = KILLS
) -> list[Change]:
    """Let things change while the sender is killed and started; return the changes.

    The last time nothing is left to be sent.
    """
    assert deployment.command("topics").returncode == 0
    sender = start(source)
    eventually(lambda: bool(read(deployment, "sources")), f"a heartbeat: {sender.log()}")
    with Traffic(source) as traffic:
        for run in range(kills - 1):
            lasts = 1.1 + 0.17 * run
            before = len(read(deployment, "sources"))
            eventually(partial(has_beats, deployment, before + 2), f"two: {sender.log()}")
            time.sleep(lasts)
            sender.kill()
            sender = start(source)
        time.sleep(1)
    until_vouched(deployment, sender)
    sender.kill()
    until_vouched(deployment, start(source))
    return traffic.changes


def test_what_a_sender_vouches_for_is_in_kafka_whenever_it_is_killed(
    deployment: Deployment,
    source: Source,
    start: Callable[[Source], Server],
    request: pytest.FixtureRequest,
) -> None:
    changes = run_and_kill(deployment, source, start)
    assert len(changes) > 100
    # The embedded broker may name too low an end, so there the last run vouches for too little.
    embedded = request.node.callspec.params["kafka"] == "embedded"
    firsts = [beat.offset for beat in read(deployment, "sources") if is_first(beat)]
    assert len(firsts) == KILLS + 1
    assert lies(deployment, changes, firsts[-1] if embedded else None) == []
    check_form(deployment)


def is_first(beat: Found) -> bool:
    return beat.value["data"]["after"] is None


def check_form(deployment: Deployment) -> None:
    """Check what a heartbeat may name: `after` of its own run, offsets that were there."""
    written = {(t, r.partition, r.offset): r.timestamp for t in Topic for r in read(deployment, t)}
    beats = read(deployment, "sources")
    for earlier, beat in itertools.pairwise(beats):
        after, offsets = beat.value["data"]["after"], beat.value["data"]["offsets"]
        assert after in (None, earlier.offset)
        assert set(offsets) == set(Topic)
        for topic, numbers in offsets.items():
            assert len(numbers) == PARTITIONS
            for partition, number in enumerate(numbers):
                assert written.get((topic, partition, number - 1), 0) <= beat.timestamp
    lasted = (beats[-1].timestamp - beats[0].timestamp) / 1000
    assert len(beats) <= 4 * lasted + KILLS + 2


# the product that waits for them


def test_workers_wait_for_a_sender_and_believe_it_after_it_was_killed(
    deployment: Deployment, source: Source, start: Callable[[Source], Server]
) -> None:
    deployment.env |= {"PROJECTOR_SOURCES": SOURCE, "PROJECTOR_MAX_STALENESS": "3"}
    assert deployment.command("topics").returncode == 0
    worker = deployment.start("worker")
    deployment.start_api()
    sender = start(source)
    deployment.until_fresh()
    for event in (builders.group(3), builders.project(7, 3), builders.started(9, 7)):
        source.change(event)
    assert deployment.until("token-9", 200).status == 200
    sender.kill()
    source.change(builders.removed("job", 9))
    source.change(builders.started(10, 7))
    deployment.until("token-9", 503, "the sender is gone")
    # The job has started in the source: 401 would be wrong.
    assert deployment.look_up("token-10").status == 503
    start(source)
    eventually(lambda: known(deployment, "token-10"), "the job started, never 401", 30)
    assert deployment.until("token-9", 401).status == 401
    deployment.until_fresh()
    assert "heartbeat refused" not in worker.log()


def known(deployment: Deployment, token: str) -> bool:
    status = deployment.look_up(token).status
    assert status in (200, 503)
    return status == 200


def test_what_is_in_the_wrong_topic_is_refused_with_the_right_one(deployment: Deployment) -> None:
    deployment.env["PROJECTOR_SOURCES"] = SOURCE
    assert deployment.command("topics").returncode == 0
    worker = deployment.start("worker")
    reason = "group.set is an event; it belongs in the topic membership, not in sources"

    def refused() -> bool:
        """Send it again, since a worker reads what comes after its start."""
        deployment.produce(builders.group(3, root=SOURCE), topic="sources", partition=0)
        return reason in worker.log()

    eventually(refused, "the reason in the worker's log", 30)
    beat = builders.heartbeat(SOURCE, None, {topic: [0] * PARTITIONS for topic in Topic})
    deployment.produce(json.dumps(beat).encode(), topic="membership", partition=0)
    # It is the first letter, so the event in `sources` made none.
    (letter,) = deployment.dead_letters(1)
    assert letter.headers["dead-letter-reason"].endswith("the topic sources; see docs/events.md")


# the checks above notice a sender that does wrong

ROUND = "            await sender.send_changes()\n            await sender.send_heartbeat()\n"
LAST = "        await self.acknowledge(unacknowledged)\n        if rows"
FIRST = "        unacknowledged: list"
# The parts of the program that are replaced, and by what.
WRONGS = {
    "looks into the source before the acknowledgement": {
        ROUND: ROUND.replace("\n", "\n            await asyncio.sleep(0.05)\n", 1)
        + "            await sender.send_heartbeat()\n"
    },
    "counts a send as acknowledged": {
        LAST: "        self.late = [*getattr(self, 'late', []), unacknowledged]\n"
        "        if len(self.late) > 2:\n"
        "            await self.acknowledge(self.late.pop(0))\n"
        "        if rows",
        'kind.startswith("job.")': "False",
    },
    "forgets what an earlier run sent": {"[ends[TopicPartition(name, n)]": "[0"},
    "notes changes before Kafka has them": {
        FIRST: "        last = (rows or [(self.sent,)])[-1][0]\n"
        "        self.database.execute('UPDATE sent SET number = ?', (last,))\n"
        "        await asyncio.sleep(0.2)\n" + FIRST
    },
    "sends broadcasts once": {"if kind in BROADCASTS": "if kind == 'none'"},
}


@pytest.mark.parametrize("kafka", ["apache"], indirect=True)
@pytest.mark.parametrize("wrong", WRONGS)
def test_a_sender_that_does_wrong_is_noticed(
    wrong: str, deployment: Deployment, tmp_path: Path, start: Callable[[Source], Server]
) -> None:
    text = PYTHON.read_text()
    for right, other in WRONGS[wrong].items():
        assert right in text
        text = text.replace(right, other)
    program = tmp_path / "wrong.py"
    program.write_text(text)
    changes = run_and_kill(deployment, Database(tmp_path, program), start)
    assert lies(deployment, changes) != []
