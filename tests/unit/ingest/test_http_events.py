"""CloudEvents' HTTP binding: modes, attributes, batches."""

import json
import sys
from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.model import MAX_EVENT_BYTES
from projector.ingest.http_events import (
    BATCH_TYPE,
    JSON_TYPE,
    MAX_BATCH_EVENTS,
    MAX_KEPT_BYTES,
    STRUCTURED_TYPE,
    Mode,
    mode_of,
    records_of,
    unescape,
)  # fmt: skip
from projector.ingest.refusals import RefusedRequestError
from tests.builders import group, removed

BINARY = (b"ce-specversion", b"1.0")


def headers(*media_types: str, **more: str) -> list[tuple[bytes, bytes]]:
    types = [(b"content-type", media_type.encode()) for media_type in media_types]
    return [*types, *((name.replace("_", "-").encode(), v.encode()) for name, v in more.items())]


@pytest.mark.parametrize(
    ("media_type", "mode"),
    [
        (STRUCTURED_TYPE, Mode.STRUCTURED),
        ("Application/CloudEvents+JSON; charset=UTF-8", Mode.STRUCTURED),
        (f'{STRUCTURED_TYPE};charset="utf-8"', Mode.STRUCTURED),
        (BATCH_TYPE, Mode.BATCH),
        (JSON_TYPE, Mode.BINARY),
        ("application/vnd.acme.v1+json", Mode.BINARY),
        ("text/json", Mode.BINARY),
    ],
)
def test_the_media_type_decides_about_the_mode(media_type: str, mode: Mode) -> None:
    assert mode_of([*headers(media_type), BINARY]) is mode


def test_binary_mode_needs_no_media_type() -> None:
    assert mode_of([BINARY]) is Mode.BINARY


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (headers(), "ce-specversion"),
        (headers(JSON_TYPE), "ce-specversion"),
        (headers("application/x-www-form-urlencoded"), "application/cloudevents\\+json"),
        ([*headers("application/x-www-form-urlencoded"), BINARY], "is JSON"),
        ([*headers("application/avro"), BINARY], "is JSON"),
        (headers("application/cloudevents+xml"), "as JSON"),
        (headers("application/cloudevents"), "as JSON"),
        (headers(f"{STRUCTURED_TYPE}; charset=utf-16"), "utf-8"),
        ([*headers("nonsense"), BINARY], "not a media type"),
        (headers(STRUCTURED_TYPE, content_encoding="gzip"), "compressed"),
    ],
)
def test_other_media_types_and_encodings_are_415(given: Any, reason: str) -> None:
    with pytest.raises(RefusedRequestError, match=reason) as caught:
        mode_of(given)
    assert caught.value.status == 415


@pytest.mark.parametrize(("length", "kept"), [(MAX_KEPT_BYTES, 1), (MAX_KEPT_BYTES + 1, 0)])
def test_only_short_headers_of_clients_are_kept(length: int, kept: int) -> None:
    media_type = f"{STRUCTURED_TYPE}; a=".encode().ljust(length, b"x")
    before = sys.getrefcount(media_type)
    assert mode_of([(b"content-type", media_type)]) is Mode.STRUCTURED
    assert sys.getrefcount(media_type) == before + kept


def test_two_media_types_are_400() -> None:
    with pytest.raises(RefusedRequestError) as caught:
        mode_of(headers(STRUCTURED_TYPE, BATCH_TYPE))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (b"group.set", b"group.set"),
        (b"Euro%20%E2%82%AC", "Euro €".encode()),
        (b"%2520", b"%20"),
        (b'"3"', b"3"),
        (b'"a \\"b\\" %25"', b'a "b" %'),
        (b" 3 ", b"3"),
        (b'"', b'"'),
        (b"100%", b"100%"),
    ],
)
def test_values_of_attributes_are_unquoted_then_percent_decoded_once(
    given: bytes, text: bytes
) -> None:
    assert unescape(given) == text


def test_binary_attributes_become_those_of_kafka() -> None:
    given = headers(
        JSON_TYPE, ce_specversion="1.0", ce_id="1", ce_source="/a%20b", ce_type="group.set",
        ce_partitionkey="3", ce_traceparent="00-1", authorization="Bearer x", cookie="y",
    )  # fmt: skip
    data = group(3)["data"]
    (record,) = records_of(Mode.BINARY, given, json.dumps(data).encode(), 0)
    assert decode_event(record).data == decode_event(structured(group(3))).data
    assert dict(record.headers) == {
        "content-type": b"application/json", "ce_specversion": b"1.0", "ce_id": b"1",
        "ce_source": b"/a b", "ce_type": b"group.set", "ce_partitionkey": b"3",
        "ce_traceparent": b"00-1",
    }  # fmt: skip


def structured(message: dict[str, Any]) -> Any:
    return records_of(Mode.STRUCTURED, [], json.dumps(message).encode(), 0)[0]


def test_the_bytes_of_an_event_stay_as_they_are() -> None:
    first, second = b'{"type" :1 , "type": 2}', b'{"a":1e400}'
    records = records_of(Mode.BATCH, [], b" [ " + first + b" , " + second + b"]", 0)
    assert [record.value for record in records] == [first, second]
    assert records_of(Mode.STRUCTURED, [], b" x ", 0)[0].value == b" x "


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[{}", b"[{}]x", b"\xff", b"\xef\xbb\xbf[]", b"[NaN]", b"null", b"[" * 100_000,
     json.dumps([1]).encode("utf-16")],
)  # fmt: skip
def test_a_body_that_is_no_array_is_400(body: bytes) -> None:
    with pytest.raises(RefusedRequestError, match="JSON array") as caught:
        records_of(Mode.BATCH, [], body, 0)
    assert caught.value.status == 400


def test_an_array_that_is_sent_as_one_event_is_400_with_the_right_media_type() -> None:
    """A team with curl alone got "Expected `object`, got `array`"."""
    with pytest.raises(RefusedRequestError, match=BATCH_TYPE.replace("+", r"\+")) as caught:
        records_of(Mode.STRUCTURED, [], b" [{}]", 0)
    assert (caught.value.status, caught.value.body["errors"]) == (400, [])


def test_a_batch_may_be_empty_and_not_too_long() -> None:
    assert records_of(Mode.BATCH, [], b"[]", 0) == []
    full = json.dumps([1] * MAX_BATCH_EVENTS).encode()
    assert len(records_of(Mode.BATCH, [], full, 0)) == MAX_BATCH_EVENTS
    with pytest.raises(RefusedRequestError) as caught:
        records_of(Mode.BATCH, [], full[:-1] + b",1]", 0)
    assert caught.value.status == 413


def test_an_event_has_a_bounded_number_of_attributes() -> None:
    many = [(b"ce-a%d" % number, b"") for number in range(101)]
    with pytest.raises(RefusedRequestError, match="101 attributes"):
        records_of(Mode.BINARY, many, b"{}", 0)


@pytest.mark.parametrize("more", [0, 1])
def test_an_event_of_a_batch_has_the_bound_of_a_single_one(more: int) -> None:
    """A revocation of 3 MiB ended the producer that all feeders share."""
    event = json.dumps(removed("group", 3)).encode()
    event = event[:-1] + b" " * (MAX_EVENT_BYTES - len(event) + more) + b"}"
    if not more:
        assert len(records_of(Mode.BATCH, [], b"[" + event + b"]", 0)) == 1
        return
    with pytest.raises(RefusedRequestError, match="event 1 has 1048577 bytes") as caught:
        records_of(Mode.BATCH, [], b"[{}," + event + b"]", 0)
    assert caught.value.status == 413
