"""Messages of other libraries that repeat: each in full once, then counted."""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from projector.events import redaction

# The first sum follows after this time, and each further one after twice the time of the last.
FIRST_SUM_S: Final = 10.0
LONGEST_SUM_S: Final = 600.0
# A message that has not come for so long is written in full again.
FORGET_S: Final = 60.0
# Bounds on the memory and on the line that sums up.
MAX_MESSAGES: Final = 500
MAX_SHOWN: Final = 5
MAX_TEXT: Final = 200
# Numbers, addresses and times differ between two of the same message.
_VARYING: Final = re.compile(r"0x[0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)*")

# Logger, level, and the message without what varies.
Message = tuple[str, int, str]
# Called with the seconds, the number of lines that were left out, and the most frequent messages.
Report = Callable[[float, int, str], object]


class RepeatFilter(logging.Filter):
    """Lets each message of another library through once, and reports how often it repeats.

    aiokafka alone writes some 200 lines a second while Kafka is away. The product's own events
    pass: they are few by themselves.
    """

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._lock = threading.Lock()
        self._last: dict[Message, float] = {}
        self._repeats: Counter[Message] = Counter()
        self._timer: threading.Timer | None = None
        self._interval = FIRST_SUM_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        # The message of structlog is a dictionary until a formatter renders it.
        return isinstance(record.msg, dict) or self._is_new(_message(record))

    def close(self) -> None:
        """Report no more."""
        with self._lock:
            if self._timer:
                self._timer.cancel()

    def _is_new(self, message: Message) -> bool:
        now = time.monotonic()
        with self._lock:
            if message not in self._last and len(self._last) >= MAX_MESSAGES:
                message = (message[0], message[1], "other messages")
            last = self._last.get(message)
            self._last[message] = now
            if last is None or now - last > FORGET_S:
                return True
            self._repeats[message] += 1
            if self._timer is None:
                self._start_timer()
            return False

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._interval, self._sum_up, [self._interval])
        self._timer.daemon = True
        self._timer.start()

    def _sum_up(self, seconds: float) -> None:
        """Report the repeats since the last time; end once there are none."""
        now = time.monotonic()
        with self._lock:
            repeats, self._repeats = self._repeats, Counter()
            self._last = {m: at for m, at in self._last.items() if now - at <= FORGET_S}
            self._timer = None
            self._interval = min(LONGEST_SUM_S, 2 * seconds) if repeats else FIRST_SUM_S
            if repeats:
                self._start_timer()
        if repeats:
            self._report(seconds, repeats.total(), _most_frequent(repeats))


def _message(record: logging.LogRecord) -> Message:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += f" {record.exc_info[1]!r}"
    # Redacted first: without its digits a token would not be recognised.
    plain = _VARYING.sub("#", redaction.redact_text(text))
    return record.name, record.levelno, " ".join(plain[:MAX_TEXT].split())


def _most_frequent(repeats: Counter[Message]) -> str:
    shown = [
        f"{count} x {name}: {text}" for (name, _, text), count in repeats.most_common(MAX_SHOWN)
    ]
    if len(repeats) > MAX_SHOWN:
        shown.append(f"and {len(repeats) - MAX_SHOWN} other messages")
    return "; ".join(shown)
