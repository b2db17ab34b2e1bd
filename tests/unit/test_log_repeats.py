"""Messages of other libraries: each in full once, then counted, and none is lost at `debug`."""

import io
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from projector import log_repeats
from projector.log_repeats import MAX_MESSAGES, MAX_SHOWN, RepeatFilter
from tests.unit.test_log import TOKEN, configured

__all__ = ["configured"]

Configure = Callable[..., io.StringIO]


class Reported:
    """The reports of a filter, and the records that it lets through."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, int, str]] = []
        self.reported = threading.Event()
        self.filter = RepeatFilter(self._report)

    def _report(self, seconds: float, lines: int, messages: str) -> None:
        self.reports.append((seconds, lines, messages))
        self.reported.set()

    def passes(self, message: str, *args: object, name: str = "aiokafka", level: int = 40) -> bool:
        record = logging.LogRecord(name, level, "", 0, message, args, None)
        return self.filter.filter(record)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(log_repeats, "FIRST_SUM_S", 0.02)
    found = Reported()
    found.filter._interval = 0.02
    yield found
    found.filter.close()


def test_an_outage_of_kafka_is_a_few_lines_and_a_sum(reported: Reported) -> None:
    """aiokafka wrote 150 to 190 lines a second, and the three good ones drowned."""
    kept = [
        reported.passes('Unable connect to "%s:%d": [Errno 111] (id %d)', "kafka", 9092, number)
        for number in range(1000)
    ]
    assert kept == [True] + [False] * 999
    assert reported.reported.wait(5)
    (seconds, _, messages), *_ = reported.reports
    assert seconds == 0.02
    assert sum(lines for _, lines, _ in reported.reports) <= 999
    assert messages.endswith('x aiokafka: Unable connect to "kafka:#": [Errno #] (id #)')


def test_every_repeat_is_in_a_sum(reported: Reported) -> None:
    for _ in range(50):
        reported.passes("no broker")
    assert reported.reported.wait(5)
    reported.filter._sum_up(1)
    assert sum(lines for _, lines, _ in reported.reports) == 49


def test_what_differs_in_more_than_numbers_is_written(reported: Reported) -> None:
    assert reported.passes("no broker at %s", "a:1")
    assert reported.passes("no broker at %s", "b:1")
    assert reported.passes("no broker at %s", "a:1", name="faust")
    assert reported.passes("no broker at %s", "a:1", level=30)
    assert not reported.passes("no broker at %s", "a:2")


def test_another_error_under_the_same_message_is_written(reported: Reported) -> None:
    def failed(error: Exception) -> bool:
        info = (type(error), error, None)
        return reported.filter.filter(logging.LogRecord("mode", 40, "", 0, "crashed", (), info))

    assert failed(ValueError("a"))
    assert failed(KeyError("a"))
    assert not failed(ValueError("a"))


def test_a_message_is_written_again_after_a_while_without_it(
    reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reported.passes("no broker")
    monkeypatch.setattr(log_repeats, "FORGET_S", -1.0)
    assert reported.passes("no broker")


def test_the_sum_comes_ever_more_rarely_and_ends_with_the_repeats(reported: Reported) -> None:
    for expected in (0.04, 0.08):
        reported.passes("no broker")
        reported.passes("no broker")
        reported.filter.close()
        reported.filter._sum_up(reported.filter._interval)
        assert reported.filter._interval == expected
    reported.filter.close()
    reported.filter._sum_up(1)
    assert reported.filter._timer is None
    assert reported.filter._interval == 0.02


def test_neither_memory_nor_the_line_grow_without_a_bound(reported: Reported) -> None:
    reported.filter._interval = 60
    words = [f"{'x' * (n // 26)}{chr(97 + n % 26)}" for n in range(2 * MAX_MESSAGES)]
    for word in words * 2:
        reported.passes(word)
    assert len(reported.filter._last) == MAX_MESSAGES + 1
    reported.filter.close()
    reported.filter._sum_up(1)
    messages = reported.reports[-1][2]
    assert messages.count(" x aiokafka: ") == MAX_SHOWN
    assert "other messages" in messages


# in the log


def speak(times: int) -> None:
    for number in range(times):
        logging.getLogger("aiokafka").error("no broker %s for %d", TOKEN, number)
        structlog.get_logger("projector.test").warning("outage")


def events(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_the_products_own_events_are_written_each_time(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = configured()
    speak(3)
    assert events(stream) == ["no broker [redacted] for 0", "outage", "outage", "outage"]
    (handler,) = logging.getLogger().handlers
    repeats = next(each for each in handler.filters if isinstance(each, RepeatFilter))
    repeats.close()
    repeats._sum_up(10.0)
    repeats.close()
    summed = json.loads(stream.getvalue().splitlines()[-1])
    assert (summed["event"], summed["level"]) == ("other libraries repeat themselves", "warning")
    assert (summed["lines"], summed["seconds"]) == (2, 10.0)
    assert summed["messages"] == "2 x aiokafka: no broker [redacted] for #"
    assert TOKEN not in stream.getvalue()


def test_at_debug_every_line_is_written(configured: Configure) -> None:
    stream = configured(level="debug")
    speak(3)
    assert len([event for event in events(stream) if event.startswith("no broker")]) == 3
