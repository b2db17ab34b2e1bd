"""What a dead letter holds: the original as it came, where from, and why; never a token."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.model import BadEvent, KafkaRecord, Topic
from projector.kafka.dead_letters import (
    MAX_HEADER_BYTES,
    MAX_LETTER_BYTES,
    MAX_ORIGINAL_BYTES,
    DeadLetter,
    Headers,
    compose_dead_letter,
)
from tests.builders import group, record

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
NOW = datetime(2026, 11, 23, 8, 30, 1, 234_567, UTC)
FINDINGS = 6


def letter(
    value: bytes | None = b"{}",
    key: bytes | None = b"3",
    headers: tuple[tuple[str, bytes | None], ...] = (),
    reason: str = "because",
) -> tuple[bytes | None, bytes | None, Headers]:
    original = KafkaRecord(Topic.AGENT_CONFIG, 7, 12345, 1_800_000_000_000, key, value, headers)
    return compose_dead_letter(DeadLetter(original, reason), NOW)


def size(composed: tuple[bytes | None, bytes | None, Headers]) -> int:
    key, value, headers = composed
    return len(key or b"") + len(value or b"") + sum(len(n) + len(c or b"") for n, c in headers)


@pytest.mark.parametrize(
    "value",
    [b'{ "id" : 1.0,\n "id": 2 }', b"not JSON", b"\xff\xfe\x00", b"", None, b"x" * 1024 * 1024],
    ids=lambda value: ascii(value)[:20],
)
def test_the_originals_bytes_are_kept_as_they_came(value: bytes | None) -> None:
    assert letter(value)[1] == value


@pytest.mark.parametrize("key", [b"3", b"", b"\xff\x00\x01", None], ids=ascii)
def test_the_originals_key_is_kept_as_it_came(key: bytes | None) -> None:
    assert letter(key=key)[0] == key


def test_the_headers_say_where_it_came_from_and_why_and_when() -> None:
    assert letter(reason="`data.id` is missing")[2] == [
        ("dead-letter-reason", b"`data.id` is missing"),
        ("dead-letter-topic", b"agent-config"),
        ("dead-letter-partition", b"7"),
        ("dead-letter-offset", b"12345"),
        ("dead-letter-timestamp", b"1800000000000"),
        ("dead-letter-time", b"2026-11-23T08:30:01.234+00:00"),
    ]


def test_the_originals_headers_follow_as_they_came() -> None:
    headers = (("ce_type", b"group.set"), ("trace", b"\x00\xff"), ("trace", b""))
    assert tuple(letter(headers=headers)[2][FINDINGS:]) == headers


def test_a_header_without_content_is_no_reason_to_stop() -> None:
    """Kafka allows it; an exception here would stop the partition for good."""
    headers = (("content-type", None), ("ce_subject", None), ("trace", None))
    assert tuple(letter(headers=headers)[2][FINDINGS:]) == headers
    assert decode_event(record(group(3))._replace(headers=headers)).data
    with pytest.raises(BadEvent, match=r"the header `ce_id` is missing"):
        decode_event(record(b"{}")._replace(headers=(*headers, ("ce_specversion", b"1.0"))))


def test_an_original_of_more_than_one_mebibyte_is_cut() -> None:
    assert letter(b"ab" * MAX_ORIGINAL_BYTES)[1] == b"ab" * (MAX_ORIGINAL_BYTES // 2)


def test_of_a_record_without_key_and_value_there_is_a_letter_too() -> None:
    """aiokafka refuses to send one that has neither; that would stop the partition for good."""
    assert letter(key=None, value=None)[:2] == (None, b"")
    assert letter(key=b"3", value=None)[:2] == (b"3", None)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ((("name", b"x" * (MAX_HEADER_BYTES - 4)),), True),
        ((("name", b"x" * (MAX_HEADER_BYTES - 3)),), False),
        ((("n" * MAX_HEADER_BYTES, b"x"),), False),
        (tuple(("n", b"x" * 1024) for _ in range(64)), False),
    ],
    ids=["just fits", "content", "name", "many"],
)
def test_headers_that_are_too_large_are_left_out_and_the_findings_kept(
    headers: tuple[tuple[str, bytes], ...], kept: bool
) -> None:
    composed = letter(headers=headers)[2]
    assert tuple(composed[FINDINGS:]) == (headers if kept else ())
    assert len(composed[:FINDINGS]) == FINDINGS


@pytest.mark.parametrize(
    "original",
    [
        {"value": b"x" * 5 * 1024 * 1024},
        {"key": b"x" * 5 * 1024 * 1024},
        {"key": b"\xff" * 2 * 1024 * 1024, "value": b"x" * 1024 * 1024},
        {"headers": (("trace", b"x" * 5 * 1024 * 1024),)},
        {"value": f'["{TOKEN}", "{"x" * 5 * 1024 * 1024}"]'.encode()},
    ],
    ids=["value", "key", "key of no UTF-8", "headers", "redacted"],
)
def test_no_letter_is_larger_than_its_topic_takes(original: dict[str, Any]) -> None:
    """Kafka would refuse it again and again, and the partition would wait for it for ever.

    The producer's compression lets originals through that are larger than the topic's limit.
    """
    assert size(letter(**original)) < MAX_LETTER_BYTES - 1024


def test_the_reason_for_a_huge_field_stays_small() -> None:
    headers = (("ce_specversion", b"x" * 5 * 1024 * 1024),)
    with pytest.raises(BadEvent) as refusal:
        decode_event(record(b"{}", headers=headers))
    assert size(letter(reason=str(refusal.value))) < MAX_HEADER_BYTES


@pytest.mark.parametrize(
    "original",
    [
        {"value": json.dumps({"data": {"note": TOKEN}}).encode()},
        {"value": f'{{"job_token": "{TOKEN}"'.encode()},
        {"value": b"x" * (MAX_ORIGINAL_BYTES - 10) + TOKEN.encode()},
        {"key": TOKEN.encode()},
        {"headers": (("trace", TOKEN.encode()), (TOKEN, b"1"))},
        {"reason": f"the reader said {TOKEN} is wrong"},
    ],
    ids=["value", "broken JSON", "where it is cut", "key", "headers", "reason"],
)
def test_a_token_anywhere_in_the_original_or_the_reason_is_redacted(
    original: dict[str, Any],
) -> None:
    assert TOKEN[:20] not in repr(letter(**original))
