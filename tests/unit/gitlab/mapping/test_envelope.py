import json
from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.model import EVENT_TYPES, MAX_EVENT_BYTES, Instant, KafkaRecord
from projector.gitlab.mapping.envelope import (
    MAX_TIME_AGE_MS,
    OutboxRow,
    encode,
    partition_key,
    refusal,
)

NOW = 1_800_000_000_000
SEQUENCE = "000179600000000000000000000042"
GROUP = '{"id":3,"parent_id":null,"path":"acme"}'


def row(**fields: Any) -> OutboxRow:
    return OutboxRow(7, "group.set", "3", SEQUENCE, NOW, GROUP)._replace(**fields)


def test_an_event_of_the_outbox_is_a_cloud_event() -> None:
    assert json.loads(encode(row(), NOW)) == {
        "specversion": "1.0",
        "id": f"{SEQUENCE}-7",
        "source": "/gitlab",
        "type": "group.set",
        "partitionkey": "3",
        "sequence": SEQUENCE,
        "time": "2027-01-15T08:00:00.000+00:00",
        "data": {"id": 3, "parent_id": None, "path": "acme"},
    }


def test_a_worker_reads_what_is_sent() -> None:
    record = KafkaRecord(EVENT_TYPES["group.set"].topic, 0, 0, NOW, b"3", encode(row(), NOW))
    event = decode_event(record)
    assert (event.type, event.root, event.time) == ("group.set", "3", Instant(NOW))
    assert event.sequence == 179_600_000_000_000_000_000_000_042


@pytest.mark.parametrize("time", [None, NOW - MAX_TIME_AGE_MS, 0])
def test_an_old_time_does_not_travel(time: int | None) -> None:
    assert "time" not in json.loads(encode(row(time=time), NOW))


@pytest.mark.parametrize("time", [NOW, NOW + 5_000, NOW - MAX_TIME_AGE_MS + 1])
def test_a_young_time_travels(time: int) -> None:
    assert "time" in json.loads(encode(row(time=time), NOW))


def test_a_shorter_age_may_be_given() -> None:
    assert "time" not in json.loads(encode(row(time=NOW - 1000), NOW, 1000))
    assert "time" in json.loads(encode(row(time=NOW - 999), NOW, 1000))


def test_a_broadcast_has_a_key_of_its_own() -> None:
    assert partition_key("*") == "1"
    assert partition_key("40") == "40"


def test_texts_are_sent_as_utf_8_and_numbers_as_they_are() -> None:
    data = '{"id":3,"parent_id":null,"path":"é\U0001f600","n":1.0e2}'
    assert data.encode() in encode(row(data=data), NOW)


def test_an_event_that_a_worker_takes_is_not_refused() -> None:
    assert refusal("group.set", "3", SEQUENCE, NOW, GROUP) is None
    assert refusal("user.set", "*", SEQUENCE, None, '{"id":1,"username":"a","state":"x"}') is None


@pytest.mark.parametrize(
    ("root", "data", "reason"),
    [
        ("3", '{"id":0,"parent_id":null,"path":"a"}', "`data.id` must be at least 1"),
        ("3", '{"id":3,"parent_id":null}', "`data.path` is missing"),
        ("3", '{"id":3,"parent_id":null,"path":null}', "`data.path` must be text, and is null"),
        ("3", '{"id":3,"path":""}',
         "`data.parent_id` is missing; `data.path` must not be empty"),
        ("-3", GROUP, "a worker would refuse the event"),
        ("3", '{"id":3,', "a worker would refuse the event"),
    ],
)  # fmt: skip
def test_the_reason_of_a_refusal(root: str, data: str, reason: str) -> None:
    assert refusal("group.set", root, SEQUENCE, NOW, data) == reason


def test_no_event_is_longer_than_the_one_that_was_checked() -> None:
    path = "x" * (MAX_EVENT_BYTES - 400)
    while refusal("group.set", "3", SEQUENCE, NOW, data_of(path)) is None:
        path += "x"
    longest = encode(row(number=2**63 - 1, data=data_of(path[:-1])), NOW)
    assert len(longest) == MAX_EVENT_BYTES


def data_of(path: str) -> str:
    return f'{{"id":3,"parent_id":null,"path":"{path}"}}'
