"""The header that keeps a replayed event at its original's position."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.events.model import BadEvent, ReplayPosition
from projector.events.replay_header import HEADER, decode_position, encode_position
from tests.builders import group, record


@given(st.integers(0, 10**18), st.integers(-(10**18), 10**18))
def test_a_position_reads_back_as_it_was_written(offset: int, timestamp: int) -> None:
    position = ReplayPosition(offset, timestamp)
    replay = record(group(3), offset + 1, headers=(("other", b"x"), encode_position(position)))
    assert decode_position(replay) == position


def test_a_record_without_the_header_is_not_a_replay() -> None:
    assert decode_position(record(group(3), 9, headers=(("other", b"5 5"),))) is None


@pytest.mark.parametrize("content", [b"9 5", b"10 5"])
def test_a_position_that_is_not_before_the_record_is_refused(content: bytes) -> None:
    with pytest.raises(BadEvent, match="not before the record's own offset 9"):
        decode_position(record(group(3), 9, headers=((HEADER, content),)))


@pytest.mark.parametrize("contents", [[b""], [b"5"], [b"5 x"], [None], [b"3 5", b"3 5"]], ids=repr)
def test_anything_but_one_offset_and_one_timestamp_is_refused(
    contents: list[bytes | None],
) -> None:
    with pytest.raises(BadEvent, match="must be there once"):
        decode_position(record(group(3), 9, headers=tuple((HEADER, each) for each in contents)))
