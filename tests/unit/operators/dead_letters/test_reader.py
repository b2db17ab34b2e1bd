"""Dead letters as they are read: their names, their order, and which are selected."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from projector.config.settings import Settings
from projector.errors import LetterError
from projector.events.model import Topic
from projector.kafka.dead_letters import PREFIX
from projector.operators.dead_letters import reader
from projector.operators.dead_letters.letters import Letter, LetterFilter, LetterId
from projector.operators.dead_letters.reader import read_latest


def letter(name: str, timestamp_ms: int, **finding: object) -> Letter:
    headers = tuple((f"{PREFIX}{part}", str(text).encode()) for part, text in finding.items())
    return Letter(LetterId.parse(name), timestamp_ms, None, b"{}", headers)


# The offsets of two partitions are not in the order of their times.
LETTERS = [
    letter("0:1", 30, topic="membership", partition=2, reason="it belongs in partition 1"),
    letter("0:2", 50, topic="membership", partition=1, reason="not JSON"),
    letter("1:7", 20, topic="agent-config", partition=2, reason="not JSON"),
    letter("1:8", 40),
]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The bounds with which the topic was read."""
    asked: list[int | None] = []

    class Reader:
        async def read(self, latest: int | None = None) -> AsyncIterator[Letter]:
            asked.append(latest)
            for each in LETTERS:
                yield each

    @contextlib.asynccontextmanager
    async def opened(_settings: Settings) -> AsyncIterator[Any]:
        yield Reader()

    monkeypatch.setattr(reader, "open_dead_letters", opened)
    return asked


async def test_the_latest_letters_of_all_partitions_come_in_the_order_of_their_times(
    bounds: list[int | None],
) -> None:
    found = await read_latest(Settings(), 3)
    assert [summary.id for summary in found.letters] == ["0:1", "1:8", "0:2"]
    assert bounds == [3]


@pytest.mark.parametrize(
    ("selected", "ids"),
    [
        (LetterFilter(), ["1:7", "0:1", "1:8", "0:2"]),
        (LetterFilter(topic=Topic.MEMBERSHIP), ["0:1", "0:2"]),
        (LetterFilter(partition=2), ["1:7", "0:1"]),
        (LetterFilter(reason="NOT json"), ["1:7", "0:2"]),
        (LetterFilter(Topic.MEMBERSHIP, 1, "belongs"), []),
    ],
)
async def test_a_filter_reads_and_counts_all_letters(
    bounds: list[int | None], selected: LetterFilter, ids: list[str]
) -> None:
    found = await read_latest(Settings(), 4, selected)
    assert [summary.id for summary in found.letters] == ids
    assert (found.matching, found.total) == (len(ids), 4)
    one = await read_latest(Settings(), 1, selected)
    assert [summary.id for summary in one.letters] == ids[-1:]
    assert (one.matching, one.total) == (len(ids), 4)
    assert bounds == [None, None]


def test_a_letter_is_summed_up_by_its_findings_as_far_as_they_can_be_read() -> None:
    found = letter("0:1", 5, topic="membership", offset=7, timestamp="\u0663", reason="x" * 5000)
    summary = found.summary()
    assert (summary.id, summary.topic, summary.offset) == ("0:1", "membership", 7)
    assert (summary.time, summary.partition, summary.timestamp) == (None, None, None)
    assert summary.reason == "x" * 1000


@pytest.mark.parametrize("text", ["2:17", "17", "0:17"])
def test_letters_have_names(text: str) -> None:
    assert LetterId.parse(text) == LetterId(2 if text == "2:17" else 0, 17)


@pytest.mark.parametrize("text", ["", ":", "1:", ":1", "a", "-1", "1:2:3", "1 ", "٣", "9" * 40])
def test_anything_else_is_no_letter(text: str) -> None:
    with pytest.raises(LetterError, match="is not a letter"):
        LetterId.parse(text)


STRUCTURED = b'{"id": "e1", "source": "/t", "type": "group.set", "specversion": "1.0", "time": 3'
BINARY = (
    ("ce_specversion", b"1.0"),
    ("CE_type", b"group.set"),
    ("ce_source", b"/t"),
    ("ce_id", b"e1"),
)


@pytest.mark.parametrize(
    ("value", "headers", "attributes"),
    [
        (STRUCTURED + b"}", (), ("group.set", "/t", "e1")),
        (b"{}", BINARY, ("group.set", "/t", "e1")),
        (b'{"type": 7, "source": "/t"}', (), (None, "/t", None)),
        (b"not JSON", (), (None, None, None)),
        (None, (), (None, None, None)),
        (b'{"type": "%s"}' % (b"x" * 500), (), ("x" * 200, None, None)),
    ],
)
def test_a_letter_names_type_source_and_id_of_its_event_as_far_as_they_can_be_read(
    value: bytes | None, headers: Any, attributes: tuple[str | None, ...]
) -> None:
    found = Letter(LetterId(0, 1), 5, None, value, headers).summary()
    assert (found.type, found.source, found.event_id) == attributes


async def test_a_replayed_letter_is_counted_and_only_listed_among_all(
    bounds: list[int | None],
) -> None:
    places = {"0:2@50": "membership 1:9", "1:7@21": "of a letter of a former topic"}
    waiting = await read_latest(Settings(), 9, LetterFilter(waiting=True), places)
    assert [summary.id for summary in waiting.letters] == ["1:7", "0:1", "1:8"]
    assert (waiting.matching, waiting.total, waiting.replayed) == (3, 4, 1)
    everything = await read_latest(Settings(), 9, LetterFilter(), places)
    assert [summary.replayed for summary in everything.letters][-1] == "membership 1:9"
