"""The field `silent` of a partition's hash, also malformed or hostile."""

import pytest

from projector.store.silent_source import SilentSource, decode_silent


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"gitlab 1800000000000 100000", SilentSource("gitlab", 1_800_000_000_000)),
        (b"0-a_b.c 0 98000", SilentSource("0-a_b.c", 0)),
        (b"a" * 63 + b" 1 102000", SilentSource("a" * 63, 1)),
    ],
)
def test_a_source_and_a_time_are_decoded(raw: bytes, expected: SilentSource) -> None:
    assert decode_silent(raw, 100_000) == expected


@pytest.mark.parametrize(
    "raw",
    [
        None, b"", b"gitlab", b"gitlab ", b" 1 1", b"gitlab 1", b"gitlab 1 1 ", b"gitlab  1 1",
        b"gitlab 1  1", b"gitlab 1 1\n", b"gitlab 1 1 1", b"gitlab -1 1", b"gitlab 1 -1",
        b"gitlab 1.5 1", b"gitlab 1 1.5", b"gitlab 1e3 1", b"gitlab " + b"9" * 16 + b" 1",
        b"gitlab 1 " + b"9" * 16, b"a" * 64 + b" 1 1", b"GitLab 1 1", b".gitlab 1 1",
        b"gitlab\x1b[2J 1 1", b"<b>x</b> 1 1", b"git lab 1 1", b"\xff\xfe 1 1",
        "gitläb 1 1".encode(), "gitlab \u0661 1".encode(), b"gitlab 1 1" * 100_000,
    ],
)  # fmt: skip
def test_a_malformed_field_counts_as_none(raw: bytes | None) -> None:
    assert decode_silent(raw, 1) is None


@pytest.mark.parametrize(
    ("vouched_ms", "seconds"), [(88_000, 12.0), (100_000, 0.0), (100_001, 0.0), (0, None)]
)
def test_a_silence_is_never_negative_and_without_an_end_if_the_source_never_vouched(
    vouched_ms: int, seconds: float | None
) -> None:
    assert SilentSource("gitlab", vouched_ms).seconds(100_000) == seconds


@pytest.mark.parametrize("noted_ms", [97_999, 102_001, 0])
def test_a_note_that_was_not_written_just_now_counts_as_none(noted_ms: int) -> None:
    """Its owner is gone; one from the future is of before a failover."""
    assert decode_silent(b"gitlab 88000 %d" % noted_ms, 100_000) is None
