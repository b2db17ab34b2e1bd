"""Lines of events: which are bad, and why."""

import io
import json
from typing import Any

import pytest

from projector.events.model import MAX_EVENT_BYTES, BadEvent
from projector.feed.event_file import BadLine, Findings, check_lines, numbered_lines, parse_line
from tests.builders import (
    configured,
    event,
    group,
    heartbeat,
    removed,
    shared,
    shared_agent,
    started,
)

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
GOOD = json.dumps(group(3)).encode()


def findings(*source: bytes) -> Findings:
    return check_lines(io.BytesIO(b"\n".join(source)))


def checked(*source: bytes) -> tuple[int, list[BadLine]]:
    count, bad, doubtful = findings(*source)
    assert doubtful == []
    return count, bad


def refusal(message: dict[str, Any]) -> str:
    count, [bad] = checked(json.dumps(message).encode())
    assert (count, bad.number) == (1, 1)
    return bad.reason


def test_good_lines_are_counted() -> None:
    assert checked(GOOD, json.dumps(removed("job", 9)).encode()) == (2, [])


def test_no_lines_are_no_events() -> None:
    assert checked() == (0, [])


def test_every_bad_line_is_named_by_its_number_and_the_reason() -> None:
    count, bad = checked(GOOD, b"{", GOOD, b"[]", b'{"specversion": "1.0"}')
    assert count == 5
    assert [line.number for line in bad] == [2, 4, 5]
    for line, says in zip(bad, ["not JSON", "and is a list", "`event.id` is missing"], strict=True):
        assert says in line.reason


@pytest.mark.parametrize("change", [{}, {"partitionkey": "acme"}], ids=["plain", "keyed"])
@pytest.mark.parametrize("prefix", ["", "com.example."])
def test_a_heartbeat_is_refused_for_it_vouches_for_what_its_own_sender_sent(
    prefix: str, change: dict[str, str]
) -> None:
    kind = f"{prefix}source.heartbeat"
    message = heartbeat("acme", 4711, {"membership": [1]}, type=kind) | change
    assert refusal(message) == (
        "source.heartbeat is not an event: it vouches for what its own sender sent, and belongs in "
        "the topic sources; see docs/events.md"
    )


def test_blank_lines_are_no_events_but_count_as_lines() -> None:
    source = [b"", b"  ", GOOD, b"\t\r", b"{", b""]
    assert list(numbered_lines(io.BytesIO(b"\n".join(source)))) == [(3, GOOD), (5, b"{")]
    count, [bad] = checked(*source)
    assert (count, bad.number) == (2, 5)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_a_line_may_end_in_any_way(end: bytes) -> None:
    assert check_lines(io.BytesIO(GOOD + end)) == (1, [], [])


def test_a_line_of_more_than_one_mebibyte_is_bad() -> None:
    assert "at most 1048576" in refusal(group(3, note="x" * MAX_EVENT_BYTES))


@pytest.mark.parametrize(
    "message",
    [
        group(3, note=TOKEN),
        started(9, 7) | {"data": started(9, 7)["data"] | {"job_token": "x"}},
        removed("job", 9, note=TOKEN),
        removed("job", 9) | {"data": {"id": 9, "token": TOKEN}},
    ],
    ids=["set", "named", "revocation", "revocation's data"],
)
def test_a_token_is_refused_even_in_a_revocation(message: dict[str, Any]) -> None:
    """A worker would apply the revocation; here its sender can still mend it."""
    assert "holds a job token" in refusal(message)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"time": "yesterday"}, "RFC 3339"),
        ({"specversion": "9"}, "`event.specversion`"),
        ({"sequence": "soon"}, "`event.sequence`"),
    ],
)
def test_a_mistake_in_a_revocation_is_doubtful(attributes: dict[str, Any], says: str) -> None:
    """A worker applies it, so a whole file of events must not wait for it to be mended."""
    line = json.dumps(removed("job", 9, **attributes)).encode()
    count, bad, [doubtful] = findings(GOOD, line, GOOD)
    assert (count, bad, doubtful.number) == (3, [], 2)
    assert says in doubtful.reason


def test_an_entry_that_a_worker_leaves_out_is_doubtful_and_named() -> None:
    entries = [{"id": 7}, {"id": 8, "access_as": {}}]
    messages = [
        configured(5, groups=entries), shared(5, 3, {"access_as": {}}),
        shared_agent(5, 3, groups=entries),
    ]  # fmt: skip
    count, bad, doubtful = findings(GOOD, *(json.dumps(each).encode() for each in messages))
    assert (count, bad) == (4, [])
    assert [line.number for line in doubtful] == [2, 3, 4]
    assert doubtful[0].reason.startswith("`ci_access.groups[1]` does not count: `access_as` must")
    assert doubtful[2].reason == doubtful[0].reason
    assert doubtful[1].reason.startswith("the agent does not count: `access_as` must name")
    assert parse_line(json.dumps(messages[0]).encode()).warning


def test_a_line_without_a_partitionkey_is_bad_because_it_has_no_key() -> None:
    lacking = {name: content for name, content in group(3).items() if name != "partitionkey"}
    assert refusal(lacking) == (
        "`event.partitionkey` is missing; give the id of the root namespace, as text"
    )


def token_places() -> list[dict[str, Any]]:
    """A token in every place from which a reason could quote."""
    within = [f"x{TOKEN}", "x" * 79 + TOKEN, "x" * 85 + TOKEN, f"{TOKEN}.{TOKEN}"]
    fields = ["id", "source", "type", "specversion", "partitionkey", "time", "sequence", "data"]
    messages = [group(3) | {field: text} for field in fields for text in within]
    messages += [started(9, 7) | {"data": {TOKEN: 1}}, group(3) | {TOKEN: {"token": 1}}]
    for field in ("token_sha256", "expires_at", "user"):
        messages += [started(9, 7) | {"data": started(9, 7)["data"] | {field: within[0]}}]
    for text in within:
        data = {"user_id": 1, "group_id": 3, "role": text, "via": "direct"}
        messages += [event("member.set", data), event("member.set", data | {"expires_at": text})]
    return messages


@pytest.mark.parametrize("message", token_places())
def test_no_reason_repeats_a_token_or_a_piece_of_it(message: dict[str, Any]) -> None:
    _, bad = checked(json.dumps(message).encode(), json.dumps(message).encode()[:-1])
    assert bad
    assert all("glcbt" not in line.reason for line in bad)
    assert all("abcdef" not in line.reason for line in bad)


@pytest.mark.parametrize("field", ["specversion", "type", "source", "partitionkey"])
def test_a_reason_stays_readable_however_long_the_line_is(field: str) -> None:
    _, bad = checked(json.dumps(group(3) | {field: "x" * 500_000}).encode()[:-1] + b', "id": 1}')
    assert [len(line.reason) < 1500 for line in bad] == [True]


def test_a_line_is_parsed_into_its_event() -> None:
    assert parse_line(GOOD).root == "3"
    with pytest.raises(BadEvent, match="not JSON"):
        parse_line(b"{")
