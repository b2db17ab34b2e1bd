"""`projector audit`: rows, their JSON, and exit codes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fakeredis
import pytest
from aiokafka.errors import KafkaConnectionError

from projector.config.settings import Settings
from projector.events.model import DEAD_LETTERS, Topic
from projector.feed import producer
from projector.feed.producer import Batch, Message
from projector.kafka import topics
from projector.operators import snapshot
from projector.store import schema
from tests import builders
from tests.unit.cli.runner import run, written
from tests.unit.operators import worlds
from tests.unit.operators.worlds import COMPANY, HOME, OTHER, OTHER_ROOT, PARTITIONS, STARTED

MEMBER = "3/member/group:3/user:1/direct"
LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
EXACT = ["--clock-skew", "0"]


def now() -> str:
    return datetime.now(UTC).isoformat()


async def _fill(server: fakeredis.FakeServer, *messages: dict[str, Any]) -> None:
    await worlds.filled(server, *messages)


def export(folder: Path, *messages: dict[str, Any]) -> str:
    return written(folder, *(json.dumps(message) + "\n" for message in messages))


def changed(folder: Path) -> str:
    """An export in which the user is a guest, project 8 is there and agent 6 is not."""
    company = [m for m in COMPANY if m["data"].get("id") != 6 and m["type"] != "member.set"]
    member = builders.member(1, "guest", group_id=3)
    return export(folder, *company, STARTED, member, builders.project(8, 3))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """The messages fed to Kafka, whose topics are as they should be."""
    sent: list[Message] = []

    async def put(message: Message) -> None:
        sent.append(message)

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
    return sent


@pytest.mark.usefixtures("company")
def test_an_export_of_the_same_exits_with_0(tmp_path: Path) -> None:
    result = run("audit", export(tmp_path, *COMPANY, STARTED))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "6 entities in the export without its time, so nothing counts as newer: "
        "0 missing, 0 extra, 0 different, 0 newer than the export",
        "compared: agent, group, job, member, project of namespace 3",
    ]


@pytest.mark.usefixtures("company")
def test_findings_are_lines_and_exit_with_1(tmp_path: Path) -> None:
    result = run("audit", changed(tmp_path), "--taken", LATER)
    assert result.exit_code == 1
    extra, different, missing, *summary = result.stdout.splitlines()
    assert extra.startswith(
        f"extra, OVER-GRANT: agent 6: here, but not in the export [agent-config/{HOME}:"
    )
    assert different.startswith(
        "different, OVER-GRANT: user 1 in group 3: developer here, guest in the export (line 5) "
        f"[membership/{HOME}:2 of "
    )
    assert missing == "missing: project 8: not here, but in the export (line 6)"
    assert "1 missing, 1 extra, 1 different, 0 newer than the export" in summary[0]


@pytest.mark.usefixtures("company")
def test_the_json_of_a_finding_has_the_public_names_in_order(tmp_path: Path) -> None:
    result = run("audit", changed(tmp_path), "--kind", "member", "--json")
    found = json.loads(result.stdout)
    expected = {
        "partition": HOME, "key": MEMBER, "what": "different", "line": 5,
        "fields": {"level": {"fact": 30, "export": 10}}, "topic": "membership", "offset": 2,
        "timestamp": found["timestamp"], "sequence": None,
        "over_grant": True,
    }  # fmt: skip
    assert list(found.items()) == list(expected.items())
    assert isinstance(found["timestamp"], int)
    assert "not compared: agent, group, job, project" in result.stderr


@pytest.mark.usefixtures("company")
def test_a_repair_is_fed_for_each_finding(tmp_path: Path, sent: list[Message]) -> None:
    result = run("audit", changed(tmp_path), "--taken", now(), *EXACT, "--repair", "--json")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [list(row)[-1] for row in rows] == ["outcome"] * 3
    assert [row["outcome"] for row in rows] == ["fed"] * 3
    assert [(m.topic, m.partition, json.loads(m.value)["type"]) for m in sent] == [
        ("agent-config", HOME, "agent.removed"), ("membership", HOME, "member.set"),
        ("membership", HOME, "project.set"),
    ]  # fmt: skip
    assert result.stderr.splitlines()[-1] == ("3 events fed; run audit again once they are applied")


def test_what_no_event_repairs_is_named_and_exits_with_1(
    server: fakeredis.FakeServer, tmp_path: Path, sent: list[Message]
) -> None:
    asyncio.run(_fill(server, builders.user(1)))
    file = export(tmp_path, *COMPANY)
    result = run("audit", file, "--kind", "user", "--taken", now(), *EXACT, "--repair")
    assert (result.exit_code, sent) == (1, [])
    line = result.stdout.splitlines()[0]
    assert line.startswith("extra: user 1: here, but not in the export [membership/")
    assert line.endswith(
        ": cannot be repaired: no event removes a user; feed `user.set` with another state"
    )


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "not every line has a `time`; give the time of the export with --taken"),
        (["--taken", LATER], "which is yet to come; correct --taken"),
        (["--taken", "2001-01-01"], "was removed since could come back. Take a new export"),
    ],
)
def test_a_repair_that_could_undo_something_newer_is_refused(
    tmp_path: Path, sent: list[Message], options: list[str], reason: str
) -> None:
    result = run("audit", changed(tmp_path), "--repair", *options)
    assert (result.exit_code, result.stdout, sent) == (2, "", [])
    assert result.stderr.endswith(f"{reason}\n")


def test_a_partition_that_cannot_be_compared_is_a_row_and_exits_with_1(
    company: fakeredis.FakeServer, tmp_path: Path
) -> None:
    fakeredis.FakeRedis(server=company).hset(schema.facts_key(HOME), "3/group/12", "garbage")
    file = export(tmp_path, *COMPANY, STARTED)
    result = run("audit", file, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert list(found) == ["partition", "what", "error"]
    assert (found["partition"], found["what"]) == (HOME, "not compared")
    assert run("audit", file).stdout.startswith(f"not compared: partition {HOME}: partition {HOME}")


@pytest.mark.usefixtures("company")
def test_a_bad_line_or_none_exits_with_2(tmp_path: Path) -> None:
    file = written(tmp_path, "{\n")
    result = run("audit", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "nothing was compared"
    empty = run("audit", written(tmp_path, "\n"))
    assert (empty.exit_code, empty.stderr.splitlines()[-1]) == (2, "nothing was compared")


def test_what_has_become_empty_is_extra_when_everything_is_compared(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    """No line of the export is of that kind or of that root namespace any more."""
    gone = builders.group(5, root="5"), builders.member(1, group_id=5, root="5")
    asyncio.run(_fill(server, *gone))
    company = [m for m in COMPANY if m["type"] != "member.set"]
    file = export(tmp_path, *company, STARTED)
    assert "0 missing, 0 extra, 0 different" in run("audit", file).stdout
    result = run("audit", file, "--all")
    assert result.exit_code == 1
    found = [line.split(": here")[0] for line in result.stdout.splitlines()]
    # In the order of partitions.
    assert found[:3] == [
        "extra, OVER-GRANT: user 1 in group 5", "extra: group 5",
        "extra, OVER-GRANT: user 1 in group 3",
    ]  # fmt: skip
    assert "0 missing, 3 extra, 0 different" in found[3]
    assert found[4].startswith("compared: agent, ")
    assert found[4].endswith(" of all namespaces")
    assert len(found) == 5


def test_rows_of_a_partition_are_printed_before_the_next_is_compared(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_fill(server, builders.member(1, group_id=5, root=OTHER_ROOT)))
    first, last = sorted([HOME, OTHER])
    assert first == OTHER
    read = snapshot.read_snapshot

    async def failing(redis: Any, partition: int) -> Any:
        if partition == last:
            raise ConnectionError("away")
        return await read(redis, partition)

    monkeypatch.setattr(snapshot, "read_snapshot", failing)
    result = run("audit", export(tmp_path, *COMPANY), "--all")
    assert result.exit_code == 3
    assert result.stdout.startswith("extra, OVER-GRANT: user 1 in group 5")


@pytest.mark.usefixtures("company", "sent")
def test_repairs_under_way_when_kafka_fails_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def failing(settings: Settings) -> AsyncIterator[Batch]:
        yield Mock(spec=Batch)
        raise KafkaConnectionError

    monkeypatch.setattr(producer, "sending", failing)
    result = run("audit", changed(tmp_path), "--taken", now(), *EXACT, "--repair", "--json")
    assert result.exit_code == 3
    outcomes = [json.loads(line)["outcome"] for line in result.stdout.splitlines()]
    assert outcomes == ["perhaps fed: Kafka has not acknowledged it"] * 3


@pytest.mark.usefixtures("company")
def test_an_empty_export_of_everything_leaves_nothing(tmp_path: Path, sent: list[Message]) -> None:
    empty = written(tmp_path, "")
    result = run("audit", empty, "--all")
    assert result.exit_code == 1
    assert "0 missing, 6 extra, 0 different" in result.stdout
    # A command that fails before it writes a line must not end everything.
    assert run("audit", empty, "--all", "--repair").exit_code == 2
    assert sent == []


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize("option", ["--kind=member", "--namespace=3"])
def test_everything_is_not_a_part(tmp_path: Path, option: str) -> None:
    result = run("audit", export(tmp_path, *COMPANY), "--all", option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "leave --kind and --namespace out" in result.stderr
