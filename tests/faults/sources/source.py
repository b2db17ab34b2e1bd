"""A source: a stand-in for an upstream database, whose changes a feeder sends to Kafka."""

import json
from itertools import count
from pathlib import Path

from tests.faults.namespaces import Event
from tests.faults.traffic import Traffic


class Source:
    """The log of a source's changes: a file that grows by one line a change."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._log = file.open("ab", buffering=0)
        self._numbers = count(1)

    def change(self, event: Event) -> Event:
        """Let a change happen; return its event, which has the change's number as `sequence`."""
        numbered = event | {"sequence": str(next(self._numbers))}
        # One write: the change has happened for all readers once it returns.
        self._log.write(json.dumps(numbered).encode() + b"\n")
        return numbered

    def close(self) -> None:
        self._log.close()


def read_changes(file: Path, position: int) -> tuple[list[Event], int]:
    """Return the events of all changes after the position, and the position behind them."""
    with file.open("rb") as log:
        log.seek(position)
        whole, newline, _ = log.read().rpartition(b"\n")
    lines = whole.splitlines()
    return [json.loads(line) for line in lines], position + len(whole) + len(newline)


class SourceTraffic(Traffic):
    """Traffic of events that happen in a source; it is the feeder that sends them to Kafka.

    So their histories have the times of the changes in the source.
    """

    source: Source

    async def _deliver(self, event: Event) -> Event:
        return self.source.change(event)
