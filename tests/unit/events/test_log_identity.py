"""Two logs have the same identity only if the same record is at the same offset."""

import pytest

from projector.events.log_identity import LogIdentity, RecordMark
from projector.events.model import KafkaRecord, Topic
from tests import builders

MARK = RecordMark(41, 1_800_000_000_000, "0123456789abcdef")


def record(key: bytes | None = b"3", value: bytes | None = b"{}") -> KafkaRecord:
    return KafkaRecord(Topic.MEMBERSHIP, 0, 41, builders.NOW, key, value)


def test_the_same_record_has_the_same_mark_wherever_it_was_read() -> None:
    assert RecordMark.of(record()) == RecordMark.of(record()._replace(headers=(("a", b"1"),)))


@pytest.mark.parametrize(
    "other",
    [
        record(value=b"[]"), record(value=None), record(value=b""), record(key=b"4"),
        record(key=None), record(key=b"3{}", value=b""), record()._replace(offset=42),
        record()._replace(timestamp=builders.NOW + 1),
    ],
)  # fmt: skip
def test_another_record_has_another_mark(other: KafkaRecord) -> None:
    assert RecordMark.of(other) != RecordMark.of(record())


@pytest.mark.parametrize("content", [(None, None), (b"", None), (None, b"")])
def test_no_content_differs_from_empty_content(content: tuple[bytes | None, ...]) -> None:
    empty = record(key=b"", value=b"")
    assert RecordMark.of(record(*content)) != RecordMark.of(empty)


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (LogIdentity("an-id", MARK), "an-id 41 1800000000000 0123456789abcdef"),
        (LogIdentity("", MARK), "- 41 1800000000000 0123456789abcdef"),
        (LogIdentity("an-id"), "an-id"),
        (LogIdentity(), "-"),
    ],
)
def test_an_identity_is_stored_as_words(identity: LogIdentity, text: str) -> None:
    assert identity.encode() == text
    assert LogIdentity.decode(text) == identity


@pytest.mark.parametrize("text", ["- 41", "- 41 x 0", "- x 1 0", "- 1 2 3 4"])
def test_a_malformed_identity_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|not enough|too many"):
        LogIdentity.decode(text)
