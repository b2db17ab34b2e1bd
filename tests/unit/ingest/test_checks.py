"""The check of events: what a worker refuses is refused, what it applies is taken."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.model import BadEvent, Event
from projector.feed.event_file import parse_line
from projector.ingest.checks import Checks, check_event, read_heartbeat, source_of
from projector.ingest.feeders import Feeder, parse_feeders
from tests.builders import agent, event, group, heartbeat, member, removed
from tests.unit.ingest.ingest_world import ALL, digest, feeder, record

DAY_MS = 24 * 3600 * 1000
TOKEN = "glcbt-64_example-of-a-token-x"
HEADERS = (("content-type", b"application/json"), ("ce_specversion", b"1.0"), ("ce_id", b"1"),
           ("ce_source", b"/a"))  # fmt: skip


def all_rights() -> Feeder:
    return parse_feeders(json.dumps([feeder("all", ALL, heartbeats=["acme"])]).encode())[
        digest(ALL)
    ]


def check(*messages: Any, strict: bool = False) -> Checks:
    checks = Checks(all_rights(), 7 * DAY_MS, strict=strict)
    for index, message in enumerate(messages):
        checks.add(index, record(message))
    return checks


GOOD = json.dumps(group(3)).encode()
DEEP: Any = []
for _ in range(70):
    DEEP = [DEEP]
HOSTILE = [
    *(b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 50_000, b'{"a":' * 50_000, b"NaN", b'"x"'),
    json.dumps(group(3)).encode("utf-16"),
    b"\xef\xbb\xbf" + GOOD,
    GOOD.replace(b'"id": 3', b'"id": ' + b"9" * 5000),
    GOOD.replace(b"null", b"NaN"),
    GOOD[:-1] + b', "type": "user.set"}',
    json.dumps(group(3, path=TOKEN)).encode(),
    json.dumps(event("agent.configured", {"id": 5, "config": {"x": DEEP}})).encode(),
    json.dumps(removed("group", 3)).encode() + b" and more",
    json.dumps(removed("group", 3, time="no time")).encode(),
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_are_taken_as_projector_feed_takes_them(value: bytes) -> None:
    assert outcome(lambda: check_event(record(value), DAY_MS)) == outcome(lambda: parse_line(value))


def outcome(decode: Callable[[], Event]) -> Event | str:
    try:
        return decode()
    except BadEvent as error:
        return str(error)


def test_an_event_within_an_event_gives_no_right() -> None:
    """A worker takes the namespace from the key, and then the type from the headers."""
    inner = member(1, "owner", group_id=3)["data"] | removed("group", 99)
    confused = record(inner, *HEADERS, ("ce_type", b"member.set"))
    assert decode_event(confused).type == "group.removed"
    assert decode_event(confused._replace(key=b"3")).type == "member.set"
    with pytest.raises(BadEvent, match="another one"):
        check_event(confused, DAY_MS)


def test_a_token_travels_in_no_revocation() -> None:
    message = removed("group", 3)
    message["data"]["job_token"] = "x"
    assert decode_event(record(message)).warning
    with pytest.raises(BadEvent, match="holds a job token"):
        check_event(record(message), DAY_MS)


def test_late_events_are_refused_and_late_revocations_taken_with_a_warning() -> None:
    late = "2026-11-01T00:00:00Z"
    with pytest.raises(BadEvent, match="too late"):
        check_event(record(group(3, time=late)), DAY_MS)
    assert "too late" in str(check_event(record(removed("group", 3, time=late)), DAY_MS).warning)


def test_what_is_applied_in_part_is_a_warning_unless_strict() -> None:
    doubtful = removed("group", 3, time="no time")
    found = check(group(3), doubtful)
    assert [(w.index, "time" in w.reason) for w in found.warnings] == [(1, True)]
    assert len(found.events) == 2
    found = check(group(3), doubtful, strict=True)
    assert [bad.index for bad in found.bad] == [1]


def test_every_bad_event_is_named() -> None:
    found = check({}, group(3), b"x", group(0))
    assert [bad.index for bad in found.bad] == [0, 2, 3]


def test_a_header_is_named_as_http_has_it() -> None:
    checks = Checks(all_rights(), 7 * DAY_MS, strict=False)
    checks.add(0, record(group(3)["data"], *HEADERS, ("ce_type", b"group.set")))
    checks.add(1, record(removed("group", 3)["data"], *HEADERS, ("ce_type", b"group.removed"),
                         ("ce_partitionkey", b"3"), ("ce_time", b"x")))  # fmt: skip
    assert checks.bad[0].reason.startswith("the header `ce-partitionkey` is missing")
    assert checks.warnings[0].reason.startswith("the header `ce-time`")


def test_sources_that_differ_are_none() -> None:
    text = json.dumps(group(3))
    assert source_of(record(group(3))) == "/test"
    for more in ', "source": "/other"}', ', "sour\\u0063e": "/other"}':
        assert source_of(record((text[:-1] + more).encode())) is None
    assert source_of(record((text[:-1] + ', "source": "/test"}').encode())) == "/test"
    assert source_of(record(b"x")) is None
    binary = (*HEADERS, ("ce_type", b"group.set"))
    assert source_of(record({}, *binary)) == "/a"
    assert source_of(record({}, *binary, ("ce_source", b"/b"))) is None


PULSE = heartbeat("acme", 7, {})
del PULSE["data"]["offsets"]


def test_a_heartbeat_ends_its_batch() -> None:
    found = check(agent(5, 7), PULSE)
    assert found.heartbeat
    assert (found.heartbeat.source, found.heartbeat.after) == ("acme", 7)
    assert not found.bad
    found = check(PULSE, agent(5, 7), PULSE)
    assert [bad.index for bad in found.bad] == [1, 2]


def test_heartbeats_are_read_in_binary_mode() -> None:
    given = record(PULSE["data"], *HEADERS, ("ce_type", b"com.acme.source.heartbeat"))
    checks = Checks(all_rights(), DAY_MS, strict=False)
    checks.add(0, given)
    assert checks.heartbeat
    assert checks.heartbeat.origin == "/a"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": {"source": "acme", "offsets": {}}}, "leave `data.offsets` out"),
        ({"data": {"source": "ACME"}}, "source's name"),
        ({"data": {"source": "acme", "after": -1}}, "after"),
        ({"data": {}}, "`data.source` is missing"),
        ({"partitionkey": "other"}, "source's name"),
        ({"specversion": "0.3"}, "specversion"),
    ],
)
def test_wrong_heartbeats_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        read_heartbeat(record(PULSE | change))
    assert check(PULSE | change).bad


def test_heartbeats_need_their_own_right() -> None:
    other = json.loads(json.dumps(PULSE))
    other["data"]["source"] = "gitlab"
    found = check(other)
    assert [each.reason for each in found.forbidden] == [
        "this token may not send source.heartbeat of gitlab"
    ]
