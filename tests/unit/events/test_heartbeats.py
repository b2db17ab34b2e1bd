"""Heartbeats: both CloudEvents modes, and a readable reason for every refusal."""

import json
from typing import Any

import pytest

from projector.events.heartbeats import Heartbeat, UntrueHeartbeatError, decode_heartbeat
from projector.events.model import MAX_EVENT_BYTES, BadEvent, SourceRecord, Topic
from tests.builders import heartbeat, heartbeat_record

OFFSETS: dict[str, Any] = {"membership": [4, 0], "agent-config": [1, 2], "job-lifecycle": [9, 7]}


def binary(message: dict[str, Any], offset: int) -> SourceRecord:
    attributes = {name: value for name, value in message.items() if name != "data"}
    headers = tuple((f"ce_{name}", value.encode()) for name, value in attributes.items())
    value = json.dumps(message["data"]).encode()
    return SourceRecord(offset, b"gitlab", value, (*headers, ("Content-Type", b"application/json")))


def reason(message: dict[str, Any] | bytes | None, offset: int = 8, **how: Any) -> str:
    with pytest.raises(BadEvent) as refusal:
        decode_heartbeat(heartbeat_record(message, offset, **how), 2)
    return str(refusal.value)


@pytest.mark.parametrize("after", [7, 0, None])
def test_a_heartbeat_is_the_same_in_structured_and_in_binary_mode(after: int | None) -> None:
    message = heartbeat("gitlab", after, OFFSETS)
    expected = Heartbeat("gitlab", 8, after, {topic: OFFSETS[topic] for topic in Topic})
    assert decode_heartbeat(heartbeat_record(message, 8), 2) == expected
    assert decode_heartbeat(binary(message, 8), 2) == expected


def test_the_offsets_of_one_partition_are_those_of_its_number() -> None:
    found = decode_heartbeat(heartbeat_record(heartbeat("gitlab", 7, OFFSETS), 8), 2)
    assert found.next_offsets(1) == {
        Topic.MEMBERSHIP: 0, Topic.AGENT_CONFIG: 2, Topic.JOB_LIFECYCLE: 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"type": "com.example.source.heartbeat"},
        {"partitionkey": "gitlab"},
        {"time": "2027-01-15T08:00:00Z", "sequence": "7"},
        {"unknown": "x"},
    ],
)
def test_what_other_events_may_have_a_heartbeat_may_have_too(change: dict[str, Any]) -> None:
    message = heartbeat("gitlab", 7, OFFSETS) | change
    message["data"] |= {"more": 1, "offsets": OFFSETS | {"other": [1]}}
    assert decode_heartbeat(heartbeat_record(message, 8), 2).after == 7


def test_after_may_be_left_out() -> None:
    message = heartbeat("gitlab", None, OFFSETS)
    del message["data"]["after"]
    assert decode_heartbeat(heartbeat_record(message, 0), 2).after is None


@pytest.mark.parametrize("after", [8, 9, 2**63 - 1])
def test_a_heartbeat_after_itself_cannot_be_true(after: int) -> None:
    with pytest.raises(UntrueHeartbeatError, match="has the offset 8 itself"):
        decode_heartbeat(heartbeat_record(heartbeat("gitlab", after, OFFSETS), 8), 2)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"after": -1}, "`data.after`"),
        ({"after": "7"}, "`data.after`"),
        ({"after": 7.5}, "`data.after`"),
        ({"after": True}, "`data.after`"),
        ({"after": 2**63}, "`data.after`"),
        ({"source": "GitLab"}, "of a source's name"),
        ({"source": "gitlab\n"}, "of a source's name"),
        ({"source": "x" * 64}, "of a source's name"),
        ({"source": "other"}, "the record's key is another; it must be the source's name"),
        ({"offsets": []}, "`data.offsets`"),
        ({"offsets": {}}, "`data.offsets.membership` is missing"),
        ({"offsets": {"membership": [1, 2], "job-lifecycle": [1, 2]}},
         "`data.offsets.agent-config` is missing"),
        ({"offsets": OFFSETS | {"membership": [1]}},
         "`data.offsets.membership` has 1 offsets, but the topic has 2 partitions"),
        ({"offsets": OFFSETS | {"membership": [1, 2, 3]}}, "has 3 offsets"),
        ({"offsets": OFFSETS | {"agent-config": [1, -1]}}, "`data.offsets.agent-config[1]`"),
        ({"offsets": OFFSETS | {"agent-config": [1, None]}}, "`data.offsets.agent-config[1]`"),
        ({"offsets": OFFSETS | {"job-lifecycle": 3}}, "`data.offsets.job-lifecycle`"),
        ({"offsets": OFFSETS | {"job-lifecycle": [1] * 10_001}}, "`data.offsets.job-lifecycle`"),
    ],
)  # fmt: skip
def test_wrong_data_is_refused_with_its_place(change: dict[str, Any], found: str) -> None:
    message = heartbeat("gitlab", 7, OFFSETS)
    message["data"] |= change
    assert found in reason(message)


def test_wrong_records_are_refused() -> None:
    good = heartbeat("gitlab", 7, OFFSETS)
    assert reason(None) == "the record has no value"
    assert "not JSON" in reason(b"\0\xff{")
    assert "has no `data`" in reason({n: value for n, value in good.items() if n != "data"})
    assert "the record has no key; it must be the source's name, 'gitlab'" in reason(good, key=None)
    assert "the record's key is another" in reason(good, key=b"\xff")
    assert "`event.partitionkey` must be" in reason(good | {"partitionkey": "3"})
    misplaced = "group.set is an event; it belongs in the topic membership, not in sources"
    assert reason(good | {"type": "com.example.group.set"}) == misplaced
    assert "unknown type 'heartbeat'" in reason(good | {"type": "heartbeat"})
    assert "at most 1048576 fit" in reason(b" " * (MAX_EVENT_BYTES + 1))
    deep = json.dumps(good).replace("[4, 0]", "[" * 70 + "]" * 70)
    assert "nested deeper" in reason(deep.encode())
    two = json.dumps(good).replace('"type":', '"type": "x", "type":', 1)
    assert "more than once" in reason(two.encode())
    fault = heartbeat_record(good, 8)._replace(fault="its header is not UTF-8")
    with pytest.raises(BadEvent, match="its header is not UTF-8"):
        decode_heartbeat(fault, 2)


def test_a_token_in_a_heartbeat_is_refused_and_not_repeated() -> None:
    token = "glcbt-64_abcdefghijklmnopqrst"
    said = reason(heartbeat("gitlab", 7, OFFSETS) | {"type": token})
    assert "holds a job token" in said
    assert token not in said
