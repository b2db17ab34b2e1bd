"""The mark in heartbeats of the state that sends them."""

import json

import pytest

from projector.gitlab.last_sent import ATTRIBUTE, LastSent


def test_a_mark_is_read_as_it_was_written() -> None:
    mark = LastSent("ab12", 4711)
    assert LastSent.parse(json.dumps({ATTRIBUTE: str(mark)}).encode()) == mark


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{}", b"[]", b"7", b"\xff", b'{"bridgestate": 7}', b'{"bridgestate": "x"}',
     b'{"bridgestate": "x-y"}', b'{"bridgestate": null}', b"[" * 100_000],
)  # fmt: skip
def test_a_heartbeat_without_a_mark_has_none(value: bytes | None) -> None:
    assert LastSent.parse(value) is None
