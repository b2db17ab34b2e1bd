"""Events that were refused: listed, shown and, once corrected, replayed."""

import asyncio
import json
from typing import Any

import pytest

from api.ops import data
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.events.partitioning import partition_of
from projector.operators.dead_letters import reader
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually

TOKEN = "glcbt-64_example-of-a-token-x"
HOME = partition_of("3", PARTITIONS)
ELSEWHERE = (HOME + 1) % PARTITIONS
COMPANY = [builders.group(3), builders.project(7, 3), builders.agent(5, 7), builders.started(9, 7)]
MEMBER = builders.member(1, "developer", group_id=3)
BROKEN = builders.member(1, "developper", group_id=3)
COLOURED = "\x1b[31mred\x1b[0m\x07\u202e\x7f\x9b"


def listed(deployment: Deployment, count: int, *options: str) -> list[dict[str, Any]]:
    """List the dead letters as JSON once there are `count`."""
    lines: list[dict[str, Any]] = []

    def enough() -> bool:
        done = deployment.command("dead-letters", "list", "--json", *options)
        assert done.returncode == 0, done.stderr
        lines[:] = [json.loads(line) for line in done.stdout.splitlines()]
        return len(lines) >= count

    eventually(enough, f"{count} dead letters listed")
    assert len(lines) == count
    return lines


def replay(deployment: Deployment, *arguments: str, event: dict[str, Any] | None = None) -> str:
    """Replay a letter; return the output."""
    corrected = () if event is None else ("--event", "-")
    done = deployment.command(
        "dead-letters", "replay", *arguments, *corrected, stdin=json.dumps(event) if event else ""
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(deployment: Deployment, *arguments: str, stdin: str = "") -> str:
    """Run a command that sends nothing; return its reason."""
    done = deployment.command("dead-letters", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr


def test_a_refused_event_is_listed_shown_mended_and_replayed(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.produce(BROKEN)
    deployment.until("token-9", 200)
    (letter,) = listed(deployment, 1)
    assert (letter["topic"], letter["partition"]) == ("membership", HOME)
    assert "`data.role` must be one of" in letter["reason"]
    assert deployment.agents("token-9") == []

    header, line, count = deployment.command("dead-letters", "list").stdout.splitlines()
    assert header.split() == ["LETTER", "REFUSED", "TYPE", "SOURCE", "ORIGINAL", "REASON"]
    assert line.split()[0] == letter["id"] == "0:0"
    assert line.split()[2:4] == [BROKEN["type"], BROKEN["source"]]
    assert line.endswith(letter["reason"])
    assert count == "1 shown of 1 that match, 1 dead letter in all"
    shown = deployment.command("dead-letters", "show", "0").stdout
    assert letter["reason"] in shown
    assert '"role": "developper"' in shown
    whole = json.loads(deployment.command("dead-letters", "show", "0:0", "--json").stdout)
    assert json.loads(whole["value"]) == BROKEN

    assert "`data.role` must be" in (said := refused(deployment, "replay", "0:0"))
    assert said.endswith("--event FILE\nnothing was sent\n")
    broken_again = json.dumps(BROKEN)
    assert "`data.role` must be" in refused(
        deployment, "replay", "0:0", "--event", "-", stdin=broken_again
    )
    said = replay(deployment, "0:0", event=MEMBER)
    assert said.startswith(f"0:0: member.set sent to membership partition {HOME}, offset ")
    assert said.endswith(f"; it ranks at offset {letter['offset']}\n")
    deployment.until_agents("token-9", 5)
    assert replay(deployment, "0:0", event=MEMBER)
    assert listed(deployment, 0) == []
    nothing = deployment.command("dead-letters", "list").stdout
    assert nothing == (
        "0 shown of 0 that match, 1 dead letter in all; 1 replayed, listed with --all\n"
    )
    (replayed,) = listed(deployment, 1, "--all")
    assert replayed["replayed"].startswith(f"membership {HOME}:")
    deployment.redis.delete("allowed-agents:replayed")
    assert len(listed(deployment, 1)) == 1


def test_a_replay_does_not_overwrite_what_came_later(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.produce(BROKEN)
    deployment.produce(builders.event("group.set", {"id": 12, "parent_id": 3, "path": 1}))
    later = builders.event("member.removed", {"user_id": 1, "group_id": 3})
    deployment.feed(later, builders.removed("group", 12), builders.group(12, 3))
    listed(deployment, 2)
    replay(deployment, "0:0", event=MEMBER)
    replay(deployment, "0:1", event=builders.group(12))
    deployment.feed(builders.user(1))
    eventually(
        lambda: deployment.look_up("token-9").body.get("user", {}).get("username") == "u1",
        "what was fed after the replay",
    )
    assert deployment.agents("token-9") == []
    assert worker.stop() == 0
    group = json.loads(deployment.redis.hget(f"allowed-agents:facts:{{{HOME}}}", "3/group/12"))
    assert group["data"] == {"parent": 3, "path": "g12"}


def misroute(deployment: Deployment) -> None:
    """Start all, and send the company's member to a partition of another namespace."""
    deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.until("token-9", 200)
    deployment.produce(MEMBER, partition=ELSEWHERE)
    listed(deployment, 1)


def test_a_misrouted_event_is_replayed_as_a_new_one_if_it_has_a_sequence(
    deployment: Deployment,
) -> None:
    misroute(deployment)
    deployment.produce(MEMBER | {"sequence": "3"}, topic=Topic.JOB_LIFECYCLE)
    listed(deployment, 2)
    reason = refused(deployment, "replay", "0:0", "0:1")
    assert reason.startswith("0:0: member.set with partitionkey 3 belongs in membership partition")
    assert "`sequence`" in reason
    assert "projector dead-letters replay 0:0 --as-new\n" in reason
    assert deployment.agents("token-9") == []
    said = replay(deployment, "0:1")
    assert said.startswith(f"0:1: member.set sent to membership partition {HOME}")
    assert said.endswith("as a new event with sequence 3\n")
    deployment.until_agents("token-9", 5)
    groups = deployment.command("dead-letters", "list", "--group-by", "source").stdout
    _, row = groups.splitlines()
    assert row.split()[0] == "1"
    assert row.split()[-1] == MEMBER["source"]


def test_a_misrouted_event_without_a_sequence_is_sent_as_a_new_one_on_demand(
    deployment: Deployment,
) -> None:
    misroute(deployment)
    said = replay(deployment, "0:0", "--as-new")
    assert said.endswith(", as a new event\n")
    deployment.until_agents("token-9", 5)


def test_a_broadcast_is_replayed_in_its_own_partition_only(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY)
    broken = builders.event("user.set", {"id": 1, "username": "u1"})
    for partition in (HOME, ELSEWHERE):
        deployment.produce(broken, partition=partition)
        listed(deployment, 1 if partition == HOME else 2)
    replay(deployment, "0:0", event=builders.user(1, "blocked"))
    deployment.until("token-9", 403)
    fields = [f"allowed-agents:facts:{{{p}}}" for p in range(PARTITIONS)]
    known = [p for p, field in enumerate(fields) if deployment.redis.hexists(field, "*/user/1")]
    assert known == [HOME]
    both = replay(deployment, "0:0", "0:1", event=builders.user(1, "blocked"))
    assert len(both.splitlines()) == 2


def test_binary_events_keep_their_headers_when_they_are_replayed(deployment: Deployment) -> None:
    """The event was misrouted, so it can be replayed unchanged."""
    deployment.start_all()
    deployment.feed(*COMPANY)
    attributes = MEMBER | {"sequence": "1"}
    del attributes["data"]
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    deployment.produce(
        json.dumps(MEMBER["data"]).encode(), topic=Topic.MEMBERSHIP, partition=ELSEWHERE,
        headers=headers,
    )  # fmt: skip
    deployment.until("token-9", 200)
    listed(deployment, 1)
    replay(deployment, "0:0")
    deployment.until_agents("token-9", 5)


def test_no_token_is_shown_and_what_was_redacted_is_not_replayed(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.produce(MEMBER | {"note": f"see {TOKEN}"})
    deployment.produce(b"{}", topic=Topic.MEMBERSHIP, partition=0, headers=[(TOKEN, b"1")])
    listed(deployment, 2)
    # Another program wrote this letter, without redaction.
    foreign = [("dead-letter-reason", TOKEN.encode()), ("trace", TOKEN.encode())]
    deployment.produce(TOKEN.encode(), topic="dead-letters", partition=0, headers=foreign)
    listed(deployment, 3)
    said = [deployment.command("dead-letters", "list")]
    for letter in ("0", "1", "2"):
        said.append(deployment.command("dead-letters", "show", letter))
        said.append(deployment.command("dead-letters", "show", letter, "--json"))
        said.append(deployment.command("dead-letters", "replay", letter))
        assert said[-1].returncode == 2
    assert TOKEN not in "".join(done.stdout + done.stderr for done in said)
    assert "redacted" in said[3].stderr


def test_nothing_in_a_letter_reaches_the_terminal_unescaped(deployment: Deployment) -> None:
    deployment.start_all()
    hostile = COLOURED.encode()
    deployment.produce(hostile, topic=Topic.MEMBERSHIP, partition=0, headers=[("x", hostile)])
    deployment.produce(
        json.dumps(builders.group(3, note=COLOURED)).encode() + b" x", Topic.MEMBERSHIP
    )
    listed(deployment, 2)
    names = ("reason", "topic", "partition", "offset", "time", "timestamp")
    foreign = [(f"dead-letter-{name}", hostile) for name in names]
    deployment.produce(
        json.dumps({COLOURED: COLOURED}, ensure_ascii=False).encode(), topic="dead-letters",
        partition=0, headers=foreign,
    )  # fmt: skip
    deployment.produce(b"[bold]", topic="dead-letters", partition=0)
    listed(deployment, 4)
    commands = [["list"], ["list", "--json"], ["replay", "2"], ["list", "--reason", COLOURED]]
    for letter in ("0", "1", "2", "3"):
        commands += [["show", letter], ["show", letter, "--json"]]
    for command in commands:
        done = deployment.command("dead-letters", *command)
        assert done.returncode == (2 if command[0] == "replay" else 0), done.stderr
        text = done.stdout + done.stderr
        assert not [c for c in text if not c.isprintable() and c != "\n"], (command, text)
    assert "[bold]" in deployment.command("dead-letters", "show", "3").stdout


def test_the_latest_letters_are_listed_and_can_be_chosen(deployment: Deployment) -> None:
    """With many at once, the embedded broker returns a too low end offset."""
    assert deployment.command("topics").returncode == 0
    empty = deployment.command("dead-letters", "list")
    assert (empty.returncode, empty.stdout) == (
        0, "0 shown of 0 that match, 0 dead letters in all\n",
    )  # fmt: skip
    for number in range(10):
        deployment.produce(f"{number}".encode(), topic=Topic.MEMBERSHIP, partition=number % 2)
    deployment.produce(builders.group(3), topic=Topic.AGENT_CONFIG)
    deployment.start_all()
    letters = listed(deployment, 11)
    assert [letter["id"] for letter in letters] == [f"0:{n}" for n in range(11)]
    assert listed(deployment, 3, "--last", "3") == letters[-3:]
    assert len(listed(deployment, 5, "--topic", "membership", "--partition", "1")) == 5
    (chosen,) = listed(deployment, 1, "--reason", "BELONGS IN the topic")
    assert chosen["topic"] == "agent-config"
    for wrong in ("0:11", "0:99", "1:0", "9:0"):
        assert f"no dead letter {wrong}" in refused(deployment, "show", wrong)
    value = json.loads(deployment.command("dead-letters", "show", chosen["id"], "--json").stdout)
    assert json.loads(value["value"]) == builders.group(3)


def test_the_operators_page_reads_no_more_than_the_latest(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST_LETTERS", 3)
    assert deployment.command("topics").returncode == 0
    settings = Settings(kafka=deployment.kafka, topic_prefix=deployment.prefix)
    assert asyncio.run(data.read_letters(settings))["groups"] == []
    for number in range(6):
        reason = [("dead-letter-reason", f"number {number}".encode())]
        deployment.produce(b"{}", topic="dead-letters", partition=0, headers=reason)

    async def read() -> list[int]:
        async with reader.open_dead_letters(settings) as box:
            return [letter.id.offset async for letter in box.read(data.MOST_LETTERS)]

    assert asyncio.run(read()) == [3, 4, 5]
    (group,) = asyncio.run(data.read_letters(settings))["groups"]
    assert (group["reason"], group["count"]) == ("number 5", 3)
    assert [letter["id"] for letter in group["letters"]] == ["0:5", "0:4", "0:3"]
