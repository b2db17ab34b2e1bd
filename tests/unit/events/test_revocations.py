"""Revocations that can be read are applied, whatever else is wrong with their records."""

import base64
import json
from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.model import BadEvent, Event, KafkaRecord, Topic
from projector.events.redaction import Headers
from tests.builders import event, group, record, removed

HALF = '"deploy \\ud83d"'
END = removed("job", 9)
TEXT = json.dumps(END)
BINARY = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/test"),
    ("ce_type", b"job.finished"),
    ("ce_partitionkey", b"3"),
)
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json"),)


def received(value: bytes | str, headers: Headers = (), key: bytes | None = b"3") -> Event:
    value = value.encode() if isinstance(value, str) else value
    return decode_event(KafkaRecord(Topic.JOB_LIFECYCLE, 0, 0, 1, key, value, headers))


def ends_job_9(found: Event) -> bool:
    return (found.type, found.root, found.data.id) == ("job.finished", "3", 9)  # type: ignore[union-attr]


def with_field(name: str, content: str) -> str:
    return TEXT.replace('{"id": 9}', f'{{"id": 9, "{name}": {content}}}')


UNREADABLE: dict[str, tuple[bytes | str, str]] = {
    "half a surrogate pair at the end": (
        with_field("name", HALF), "`event.data.name` holds half of a surrogate pair"
    ),
    "half a pair between": (
        TEXT.replace('"data"', f'"subject": {HALF}, "data"'),
        "`event.subject` holds half of a surrogate pair",
    ),
    "half a pair in a list": (with_field("a", f"[1, {HALF}]"), "`event.data.a[1]` holds half"),
    "half a pair in a name": (with_field("\\udc00", "1"), "a name in `event.data` holds half"),
    "NaN": (with_field("duration", "NaN"), "`event.data.duration` is NaN or infinite"),
    "Infinity": (with_field("duration", "-Infinity"), "`event.data.duration` is NaN or infinite"),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT.encode(), "begins with a byte order mark"),
    "UTF-16": (TEXT.encode("utf-16"), "it is UTF-16; send UTF-8"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "it is UTF-16-LE; send UTF-8"),
    "UTF-32": (TEXT.encode("utf-32-be"), "it is UTF-32-BE; send UTF-8"),
    "a NUL behind it": (TEXT + "\0", "Extra data"),
    "a second object": (TEXT + TEXT, "Extra data"),
    "the id of a schema before it": (b"\0\0\0\0\x07" + TEXT.encode(), "Expecting value: line 1"),
    "a line break in a text": (with_field("name", '"a\nb"'), "Invalid control character at"),
    "a backslash": (with_field("name", r'"C:\users\dev"'), "Invalid \\uXXXX escape"),
    "JSON in JSON": (json.dumps(TEXT), "`event` must be an object, and is text"),
    "data in a text": (
        json.dumps(END | {"data": '{"id": 9}'}), "`data` must be an object, and is text"
    ),
    "data in base64": (
        json.dumps({n: v for n, v in END.items() if n != "data"})[:-1]
        + f', "data_base64": "{base64.b64encode(b"""{"id": 9}""").decode()}"}}',
        "the event has no `data`",
    ),
    "an id as text": (TEXT.replace('"id": 9', '"id": "9"'), "`data.id` must be a whole number"),
    "a number as partitionkey": (TEXT.replace('"3"', "3"), "`event.partitionkey` must be text or"),
    "blanks around the type": (TEXT.replace("finished", "finished "), "unknown type"),
    "another case of the type": (TEXT.replace("job.f", "Job.F"), "unknown type"),
    "two types": (
        TEXT.replace('"data"', '"type": "job.started", "data"'),
        "`event.type` is there more than once",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_structured_revocation_is_applied_and_its_fault_is_named(what: str) -> None:
    value, says = UNREADABLE[what]
    for headers in ((), STRUCTURED):
        found = received(value, headers)
        assert ends_job_9(found)
        assert says in (found.warning or "")


BINARY_FAULTS: dict[str, tuple[bytes, Headers, str]] = {
    "half a pair": (f'{{"id": 9, "n": {HALF}}}'.encode(), BINARY, "`data.n` holds half"),
    "NaN": (b'{"id": 9, "n": NaN}', BINARY, "`data.n` is NaN"),
    "a mark": (b'\xef\xbb\xbf{"id": 9}', BINARY, "begins with a byte order mark"),
    "NULs behind headers": (
        b'{"id": 9}', tuple((name, content + b"\0") for name, content in BINARY),
        "the header `ce_specversion` has the unknown value",
    ),
    "quotes around headers": (
        b'{"id": 9}', tuple((name, b'"' + content + b'"') for name, content in BINARY),
        "the header `ce_specversion` has the unknown value",
    ),
    "no specversion": (
        b'{"id": 9}', BINARY[1:],
        "the value is read as the whole event, because `ce_specversion` is missing",
    ),
    "no id": (b'{"id": 9}', (BINARY[0], *BINARY[2:]), "the header `ce_id` is missing"),
    "two types, the last revokes": (
        b'{"id": 9}', (("ce_type", b"job.started"), *BINARY),
        "the header ce_type is there more than once, with different contents",
    ),
    "two types, the first revokes": (
        b'{"id": 9}', (*BINARY, ("ce_type", b"job.started")), "ce_type is there more than once",
    ),
    "two types in two cases": (
        b'{"id": 9}', (*BINARY, ("CE_Type", b"job.started")), "CE_Type is there more than once",
    ),
    "two namespaces": (
        b'{"id": 9}', (*BINARY, ("ce_partitionkey", b"4")), "ce_partitionkey is there more than",
    ),
    "two ids": (b'{"id": 9}', (*BINARY, ("ce_id", b"2")), "ce_id is there more than once"),
    "a structured value": (
        TEXT.encode(), BINARY, "read as `data`, because of the header `ce_specversion`",
    ),
    "said to be structured": (
        b'{"id": 9}', (*BINARY, *STRUCTURED),
        "the value is read as the whole event, because of the content-type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BINARY_FAULTS)
def test_a_binary_revocation_is_applied_and_its_fault_is_named(what: str) -> None:
    value, headers, says = BINARY_FAULTS[what]
    found = received(value, headers)
    assert ends_job_9(found)
    assert says in (found.warning or "")


@pytest.mark.parametrize(
    "content_type",
    [
        ("content-type", b"application/cloudevents+json"),
        ("Content-Type", b"application/cloudevents+json; charset=utf-8"),
        ("CONTENT-TYPE", b"Application/CloudEvents+JSON"),
        ("content-type", b" APPLICATION/CLOUDEVENTS"),
    ],
)
def test_a_structured_revocation_beside_other_attributes_is_applied_without_a_fault(
    content_type: tuple[str, bytes],
) -> None:
    """Middleware copies attributes to headers."""
    others = (("ce_specversion", b"1.0"), ("ce_type", b"group.set"), ("ce_id", b"2"))
    found = received(TEXT, (*others, content_type))
    assert ends_job_9(found)
    assert found.warning is None


def test_names_of_headers_are_read_in_any_case() -> None:
    found = received(b'{"id": 9}', tuple((name.title(), content) for name, content in BINARY))
    assert ends_job_9(found)
    assert found.warning is None


def test_an_attribute_that_is_there_twice_with_one_content_is_read() -> None:
    assert received(b'{"id": 9}', (*BINARY, *BINARY)).warning is None


@pytest.mark.parametrize("key", [b"3", b"4", None])
def test_of_two_namespaces_that_of_the_key_counts(key: bytes | None) -> None:
    found = received(b'{"id": 9}', (("ce_partitionkey", b"4"), *BINARY), key)
    assert found.root == ("4" if key == b"4" else "3")


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (json.dumps(group(3) | {"subject": 1}).replace("1", HALF), ()),
        (b"\xef\xbb\xbf" + json.dumps(group(3)).encode(), ()),
        (json.dumps(group(3)).encode("utf-16"), ()),
        (b'{"id": 3, "parent_id": null, "path": "a"}', (*BINARY[:3], ("ce_type", b"group.set"),
         ("ce_type", b"project.set"), BINARY[4])),
        (json.dumps(group(3)).replace('"data"', '"type": "user.set", "data"'), ()),
        (f"[{TEXT}, {TEXT}]", ()),
        (TEXT.replace('{"id": 9}', '{"id": "nine"}'), ()),
        (TEXT.replace('{"id": 9}', '{"id": 9'), ()),
        (TEXT.replace('"3"', '"acme"'), ()),
    ],
)  # fmt: skip
def test_what_revokes_nothing_or_has_no_ids_is_refused(value: Any, headers: Headers) -> None:
    with pytest.raises(BadEvent):
        received(value, headers, b"no namespace")


def test_two_types_of_which_none_revokes_are_refused_by_name() -> None:
    headers = (*BINARY[:3], ("ce_type", b"group.set"), ("ce_type", b"project.set"), BINARY[4])
    with pytest.raises(BadEvent, match="the header ce_type is there more than once"):
        received(b'{"id": 3}', headers)


def test_a_removed_membership_is_read_with_its_source_but_never_with_a_token() -> None:
    data = {"user_id": 1, "group_id": 3, "via": "share:12"}
    found = decode_event(record(event("member.removed", data, time="noon")))
    assert found.data.via == "share:12"  # type: ignore[union-attr]
    with pytest.raises(BadEvent, match=r"`event.data.via` holds half"):
        decode_event(record(event("member.removed", data | {"via": "\ud800"})))
    token = "glcbt-64_abcdefghijklmnopqrst"
    with pytest.raises(BadEvent, match="the field `via` holds a job token"):
        decode_event(record(event("member.removed", data | {"via": token})))


def test_a_revocation_keeps_its_sequence_if_that_can_be_read() -> None:
    message = removed("group", 3, time="noon", sequence="0042")
    assert decode_event(record(message)).sequence == 42
    headers = (*BINARY, ("ce_sequence", b"7"), ("ce_time", b"noon"))
    assert received(b'{"id": 9}', headers).sequence == 7
