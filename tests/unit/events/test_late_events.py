"""The bound on lateness: by the record alone, to the millisecond."""

from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.late_events import refuse_late
from projector.events.model import BadEvent, Event, ReplayPosition
from projector.events.replay_header import encode_position
from tests.builders import NOW, group, record, removed

RETENTION_MS = 7 * 24 * 3600 * 1000
TIME = "2027-01-15T08:00:00Z"


def checked(message: dict[str, Any], timestamp: int, replays: int | None = None) -> Event:
    header = () if replays is None else (encode_position(ReplayPosition(1, replays)),)
    arrived = record(message, 9, headers=header)._replace(timestamp=timestamp)
    return refuse_late(decode_event(arrived), arrived, RETENTION_MS)


def test_an_event_may_come_as_late_as_the_retention_and_no_later() -> None:
    assert checked(group(3, time=TIME), NOW + RETENTION_MS).warning is None
    with pytest.raises(BadEvent, match=r"too late: .* its `time` is 2027-01-15T08:00:00.000"):
        checked(group(3, time=TIME), NOW + RETENTION_MS + 1)


def test_a_replay_is_as_late_as_its_original() -> None:
    assert checked(group(3), NOW + RETENTION_MS, replays=NOW).warning is None
    with pytest.raises(BadEvent, match="the time of the record that it replays"):
        checked(group(3), NOW + RETENTION_MS + 1, replays=NOW)


def test_an_event_without_any_time_of_its_own_is_never_late() -> None:
    assert checked(group(3), NOW + 10 * RETENTION_MS).warning is None


def test_a_late_revocation_is_applied_with_a_warning() -> None:
    event = checked(removed("group", 3, time=TIME), NOW + RETENTION_MS + 1)
    assert (event.warning or "").startswith("applied all the same: too late: ")


def test_a_warning_is_added_to_one_that_is_there() -> None:
    message = removed("group", 3, time=TIME, source="")
    event = checked(message, NOW + RETENTION_MS + 1, replays=NOW)
    assert (event.warning or "").startswith(
        "applied all the same: `event.source` must not be empty"
    )
    assert "; too late: " in (event.warning or "")
