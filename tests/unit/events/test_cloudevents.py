"""Every event type, both CloudEvents modes, and a readable reason for every refusal."""

import json
from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.model import EVENT_TYPES, MAX_EVENT_BYTES, BadEvent, KafkaRecord, Topic
from tests.builders import (
    agent,
    configured,
    digest,
    event,
    group,
    member,
    project,
    record,
    removed,
    shared_agent,
    started,
    user,
)

ENVIRONMENT = {"name": "review/7", "slug": "review-7-abc", "tier": "development"}
CONFIG = {"ci_access": {"projects": [{"id": "acme/shop"}, {"id": 7}], "groups": None}, "more": 1}
SHARED = {"id": 5, "name": "far", "project_id": 3, "config": CONFIG}
INSTANCE = {"id": 5, "name": "shared", "project_id": 3, "configuration": {"a": 1}}

VALID = [
    group(12, 3),
    group(3),
    removed("group", 12),
    project(7, 12),
    project(7),
    removed("project", 7),
    member(1, group_id=12, via="share:12", expires_at="2027-01-01"),
    member(1, 30, project_id=7),
    event("member.removed", {"user_id": 1, "group_id": 12}),
    user(1, "blocked"),
    agent(5, 7),
    removed("agent", 5),
    event("agent.configured", {"id": 5, "config": CONFIG}),
    event("agent.configured", {"id": 5, "config": {}}),
    event("shared-agent.set", SHARED),
    event("shared-agent.set", SHARED | {"config": {}}),
    removed("shared-agent", 5),
    event("instance-agent.set", INSTANCE),
    removed("instance-agent", 5),
    started(9, 7, environment=ENVIRONMENT),
    event("job.canceling", {"id": 9}),
    removed("job", 9),
]


def binary(message: dict[str, Any]) -> KafkaRecord:
    attributes = {name: value for name, value in message.items() if name != "data"}
    headers = tuple((f"ce_{name}", value.encode()) for name, value in attributes.items())
    value = json.dumps(message["data"]).encode()
    return record(value, headers=(*headers, ("content-type", b"application/json")))


def reason(message: dict[str, Any] | bytes | None, **how: Any) -> str:
    with pytest.raises(BadEvent) as refusal:
        decode_event(record(message, **how))
    return str(refusal.value)


def test_a_record_that_kafkas_client_could_not_read_is_refused_for_that() -> None:
    faulty = record(group(3))._replace(fault="its header is not UTF-8")
    with pytest.raises(BadEvent, match="its header is not UTF-8"):
        decode_event(faulty)
    revocation = decode_event(record(removed("group", 3))._replace(fault="its header is not UTF-8"))
    assert revocation.warning == "applied all the same: its header is not UTF-8"


def test_the_valid_examples_cover_every_type() -> None:
    assert {message["type"] for message in VALID} == set(EVENT_TYPES)


@pytest.mark.parametrize("message", VALID, ids=lambda message: message["type"])
def test_a_valid_event_is_the_same_in_structured_and_in_binary_mode(message: Any) -> None:
    structured = decode_event(record(message))
    assert structured.warning is None
    assert decode_event(binary(message)) == structured
    content_type = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
    assert decode_event(record(message, headers=content_type)) == structured


def test_the_content_type_says_that_an_event_is_structured_whatever_headers_it_has() -> None:
    headers = (
        ("content-type", b"application/cloudevents+json"),
        ("ce_specversion", b"1.0"), ("ce_type", b"group.removed"), ("ce_id", b"1"),
        ("ce_source", b"/x"), ("ce_partitionkey", b"3"),
    )  # fmt: skip
    assert decode_event(record(group(12, 3), headers=headers)) == decode_event(record(group(12, 3)))


@pytest.mark.parametrize("message", VALID, ids=lambda message: message["type"])
def test_every_field_is_checked(message: dict[str, Any]) -> None:
    """Leaving out or mistyping any field that an event cannot do without refuses it."""
    for field in ("id", "user_id"):
        if field in message["data"]:
            broken = message | {"data": message["data"] | {field: "x"}}
            assert f"`data.{field}`" in reason(broken)
            left_out = {k: v for k, v in message["data"].items() if k != field}
            assert field in reason(message | {"data": left_out})


def test_a_reverse_dns_prefix_of_the_type_is_accepted() -> None:
    message = event("com.example.events.group.removed", {"id": 3})
    assert decode_event(record(message)).type == "group.removed"


def test_unknown_extra_fields_are_ignored() -> None:
    message = event("group.removed", {"id": 3, "extra": [1]}, subject="x", anything={"a": 1})
    assert decode_event(record(message)).warning is None


@pytest.mark.parametrize(
    ("role", "level"), [("Developer", 30), ("minimal_access", 5), ("OWNER", 50), (0, 0), (50, 50)]
)
def test_a_role_is_a_name_in_any_case_or_a_level(role: str | int, level: int) -> None:
    data = decode_event(record(member(1, role, group_id=3))).data
    assert data.level == level  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2027-01-01", 1798761600000),
        ("2027-01-01T00:00:00Z", 1798761600000),
        ("2027-01-01T02:00:00.5+02:00", 1798761600500),
    ],
)
def test_a_time_is_rfc_3339_or_a_date_at_midnight_utc(text: str, milliseconds: int) -> None:
    data = decode_event(record(member(1, group_id=3, expires_at=text))).data
    assert data.expires_at == milliseconds  # type: ignore[union-attr]


def test_a_digest_is_taken_in_any_case() -> None:
    message = started(9, 7)
    message["data"]["token_sha256"] = digest("token-9").upper()
    assert decode_event(record(message)).warning is None


def test_a_sequence_is_a_number_whatever_its_zeros() -> None:
    assert decode_event(record(group(3, sequence="0042"))).sequence == 42


# How deep a parser goes before it gives up depends on the version of Python.
DEEP = json.dumps(event("group.removed", {"id": 3, "extra": 0})).replace(
    ' 0', '{"a":' * 100_000 + "1" + "}" * 100_000
)  # fmt: skip
BAD = [
    (None, "the record has no value"),
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b'{"specversion": "1.0", "id": "\\ud800"}', "not JSON"),
    (b"[1]", "`event` must be an object, and is a list"),
    (b"[" * 100_000, "`event` must be an object, and is a list"),
    (DEEP.encode(), "nested deeper than 64 levels"),
    (group(3, specversion="0.3"), "`event.specversion`"),
    (group(3, source=""), "`event.source`"),
    (group(3, root="acme"), "`event.partitionkey`"),
    (group(3, root="012"), "`event.partitionkey`"),
    (group(3, root="12\n"), "`event.partitionkey`"),
    (group(3, root="٣"), "`event.partitionkey`"),
    (group(3, sequence="-1"), "`event.sequence`"),
    (group(3, sequence="9" * 41), "`event.sequence`"),
    (group(3, sequence=5), "`event.sequence`"),
    (group(3, time="yesterday"), "RFC 3339"),
    (group(3, time="2027-01-01T00:00:00"), "RFC 3339"),
    (event("group.sett", {"id": 3}), "unknown type 'group.sett'; known are group.set, "),
    (event("source.heartbeat", {"source": "acme"}), "belongs in the topic sources; see docs/"),
    (event("x.source.heartbeat", {"source": "acme"}), "belongs in the topic sources; see docs/"),
    (event("source.heartbeat", {"source": "acme"}, partitionkey="acme"), "is not an event"),
    (event("x.source.heartbeat", {}, partitionkey="acme", time="now"), "is not an event"),
    (group(0), "`data.id`"),
    (group(2**63), "`data.id`"),
    (event("group.set", {"id": True, "parent_id": None, "path": "a"}), "`data.id`"),
    (event("group.set", {"id": 3.0, "parent_id": None, "path": "a"}), "`data.id`"),
    (event("group.set", {"id": 3, "path": "a"}), "parent_id"),
    (event("group.set", {"id": 3, "parent_id": None, "path": ""}), "`data.path`"),
    ({k: v for k, v in group(3).items() if k != "data"}, "no `data`"),
    (member(1), "either `group_id` or `project_id`"),
    (member(1, group_id=3, project_id=7), "either `group_id` or `project_id`"),
    (member(1, "boss", group_id=3), "`data.role` must be one of"),
    (member(1, 51, group_id=3), "`data.role` must be at most 50"),
    (member(1, -1, group_id=3), "`data.role` must be at least 0"),
    (member(1, group_id=3, expires_at=5), "`data.expires_at`"),
    (started(9, 7, environment={"name": "a"}), "slug"),
    (started(9, 7, expires_at=None), "`data.expires_at`"),
    (started(9, 7) | {"data": started(9, 7)["data"] | {"token_sha256": "abc"}}, "token_sha256"),
    (event("agent.configured", {"id": 5, "config": {"ci_access": {"projects": [1]}}}), "projects"),
]


@pytest.mark.parametrize(("message", "says"), BAD, ids=lambda case: str(case)[:60])
def test_a_bad_event_gets_a_reason(message: Any, says: str) -> None:
    assert says in reason(message, topic=Topic.MEMBERSHIP)


def test_an_event_of_more_than_one_mebibyte_is_refused() -> None:
    message = group(3)
    message["data"]["path"] = "x" * MAX_EVENT_BYTES
    assert "at most 1048576" in reason(message)


def test_free_form_data_may_not_nest_without_bound() -> None:
    """It would break the JSON encoder, long after the event was accepted."""
    deep: Any = 1
    for _ in range(200):
        deep = {"a": deep}
    message = event("instance-agent.set", INSTANCE | {"configuration": deep})
    assert "nested deeper than 64 levels" in reason(message)


TOKEN = "glcbt-64_abcdefghijklmnopqrst"
PLANTED = [
    started(9, 7) | {"data": started(9, 7)["data"] | {"token": "anything"}},
    started(9, 7) | {"data": started(9, 7)["data"] | {"job_token": 1}},
    started(9, 7) | {"data": started(9, 7)["data"] | {"note": TOKEN}},
    started(9, 7) | {"data": started(9, 7)["data"] | {"token_sha256": TOKEN}},
    group(3, subject=TOKEN),
    event("instance-agent.set", INSTANCE | {"configuration": {"a": [{"b": TOKEN}]}}),
]


@pytest.mark.parametrize("message", PLANTED, ids=lambda message: str(message["data"])[:40])
def test_an_event_with_a_token_is_refused_without_repeating_it(message: Any) -> None:
    assert "holds a job token" in (said := reason(message))
    assert TOKEN not in said


def test_a_token_behind_json_escapes_is_found() -> None:
    value = json.dumps(group(3, subject="X")).replace("X", f"\\u0067{TOKEN[1:]}").encode()
    assert "holds a job token" in reason(value)


def test_names_that_contain_the_prefix_of_tokens_are_taken() -> None:
    """The job in such an environment would get a 401."""
    environment = {
        "name": "review/glcbt-migration-branch-2026",
        "slug": "review-1",
        "tier": "other",
    }
    assert decode_event(record(group(3, path="glcbt-tools/p"))).warning is None
    assert decode_event(record(started(9, 7, environment=environment))).warning is None


def test_a_token_in_a_header_is_refused() -> None:
    assert "header trace" in reason(group(3), headers=(("trace", TOKEN.encode()),))


@pytest.mark.parametrize(
    "message",
    [
        removed("job", 9, time="yesterday"),
        removed("job", 9, specversion="9"),
        removed("job", 9) | {"data": {"id": 9, "token": TOKEN}},
        {k: v for k, v in removed("group", 9).items() if k not in ("id", "source")},
        removed("project", 9, sequence="soon"),
    ],
    ids=["time", "specversion", "token", "no id", "sequence"],
)
def test_a_revocation_needs_only_its_ids(message: dict[str, Any]) -> None:
    """A mistake elsewhere in it must not keep access alive; it is reported all the same."""
    revocation = decode_event(record(message))
    assert revocation.warning
    assert TOKEN not in revocation.warning
    assert revocation.data.id == 9  # type: ignore[union-attr]


@pytest.mark.parametrize("sequence", [b"1" * 5000, b"9" * 400, b'{"a": ' * 20 + b"1" + b"}" * 20])
def test_no_sequence_keeps_a_revocation_from_being_applied(sequence: bytes) -> None:
    value = json.dumps(removed("job", 9, sequence="X")).encode().replace(b'"X"', sequence)
    assert decode_event(record(value)).warning


@pytest.mark.parametrize("header", ["ce_id", "ce_source", "ce_time", "ce_sequence", "ce_subject"])
def test_no_header_keeps_a_revocation_from_being_applied(header: str) -> None:
    original = binary(removed("job", 9))
    headers = dict(original.headers) | {header: b"\xff"}
    revocation = decode_event(original._replace(headers=tuple(headers.items())))
    assert revocation.data.id == 9  # type: ignore[union-attr]
    assert bool(revocation.warning) == (header != "ce_subject")


def test_a_revocation_without_its_id_is_refused() -> None:
    assert "id" in reason(event("job.finished", {"status": "success"}))


def test_a_token_does_not_hide_behind_a_repeated_field() -> None:
    value = json.dumps(group(3)).replace('"id": "1"', f'"id": "{TOKEN}", "id": "1"').encode()
    assert "holds a job token" in reason(value)


def test_a_reason_is_short_whatever_the_event_holds() -> None:
    assert len(reason(group(3, specversion="9" * 100_000))) <= 1000


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (group(3, root="03"), "`event.partitionkey` must be text of 1 to 19 digits without"),
        (group(3, sequence="-1"), "`event.sequence` must be text of 1 to 40 digits"),
        (
            event("job.started", {"id": 1, "token_sha256": "x"}),
            "`data.token_sha256` must be text of 64 hex digits",
        ),
        (member(1, group_id=3, via="x" * 256), "`data.via` must have at most 255 characters"),
    ],
)
def test_what_is_expected_is_said_in_words(message: dict[str, Any], says: str) -> None:
    with pytest.raises(BadEvent) as refused:
        decode_event(record(message))
    assert says in str(refused.value)
    assert "regex" not in str(refused.value)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (event("group.set", {"id": 3, "path": "a"}), "`data.parent_id` is missing"),
        (
            started(9, 7, environment={"name": "a", "tier": "b"}),
            "`data.environment.slug` is missing",
        ),
        ({k: v for k, v in group(3).items() if k != "source"}, "`event.source` is missing"),
        (event("agent.configured", {"id": 5}), "`data.config` is missing"),
        (
            event("shared-agent.set", {"id": 5, "name": "far", "project_id": 3}),
            "`data.config` is missing",
        ),
    ],
)
def test_a_missing_field_is_named_with_where_it_belongs(message: Any, says: str) -> None:
    assert reason(message) == says
    in_headers = says.replace("`event.source`", "the header `ce_source`")
    assert reason(binary(message).value, headers=binary(message).headers) == in_headers


def test_via_has_room_for_255_characters() -> None:
    assert decode_event(record(member(1, group_id=3, via="x" * 255))).warning is None


def test_a_complaint_says_that_the_event_is_applied_all_the_same() -> None:
    for message in (
        removed("group", 3, time="noon"),
        configured(5, projects=[{"id": 0}]),
        shared_agent(5, 3, groups=[{"id": 3, "enviroments": ["production"]}]),
        event("instance-agent.set", INSTANCE | {"configuration": {"access_as": {}}}),
    ):
        assert (decode_event(record(message)).warning or "").startswith("applied all the same: ")


# the record's key as the partitionkey


def without_partitionkey(message: dict[str, Any]) -> dict[str, Any]:
    return {name: content for name, content in message.items() if name != "partitionkey"}


@pytest.mark.parametrize("message", VALID, ids=lambda message: message["type"])
def test_the_key_of_a_record_is_the_partitionkey_that_it_lacks(message: dict[str, Any]) -> None:
    """SDKs of CloudEvents move the attribute into the key."""
    known = decode_event(record(message))
    rest = without_partitionkey(message)
    for lacking in (record(rest), record(rest | {"partitionkey": None}), binary(rest)):
        assert lacking.key == b"3"
        assert decode_event(lacking) == known


def test_the_partitionkey_of_an_event_counts_whatever_the_key_is() -> None:
    assert decode_event(record(group(7, root="7"))).root == "7"
    assert decode_event(binary(group(7, root="7"))).root == "7"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (None, "; give the id of the root namespace, as text"),
        (b"", ", and the record's key is not a namespace's id"),
        (b"03", ", and the record's key is not a namespace's id"),
        (b"order-7", ", and the record's key is not a namespace's id"),
        (b"3\n", ", and the record's key is not a namespace's id"),
        (b"\xff", ", and the record's key is not a namespace's id"),
        ("٣".encode(), ", and the record's key is not a namespace's id"),
    ],
)
def test_without_either_an_event_is_refused(key: bytes | None, says: str) -> None:
    rest = without_partitionkey(group(3))
    for lacking, where in (
        (record(rest), "`event.partitionkey`"),
        (binary(rest), "the header `ce_partitionkey`"),
    ):
        with pytest.raises(BadEvent) as refused:
            decode_event(lacking._replace(key=key))
        assert str(refused.value) == f"{where} is missing{says}"


def test_a_reason_about_the_mode_names_the_headers() -> None:
    headers = binary(group(12, 3)).headers
    value = json.dumps(group(12, 3)["data"]).encode()
    said = reason(value, headers=headers[1:])
    assert said.startswith("the value is read as the whole event, because `ce_specversion` is mis")
    assert "set content-type" in reason(json.dumps(group(12, 3)).encode(), headers=headers)
