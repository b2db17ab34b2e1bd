"""Timestamps as people read them."""

import pytest

from projector.events.timestamps import to_rfc3339
from tests.builders import NOW


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (NOW, "2027-01-15T08:00:00.000+00:00"),
        (NOW + 7, "2027-01-15T08:00:00.007+00:00"),
        (0, "1970-01-01T00:00:00.000+00:00"),
        (-1, "1969-12-31T23:59:59.999+00:00"),
        (10**18, "1000000000000000000 ms since 1970"),
        (-(10**18), "-1000000000000000000 ms since 1970"),
    ],
)
def test_a_timestamp_is_a_date_in_utc_as_far_as_the_calendar_goes(
    timestamp_ms: int, text: str
) -> None:
    assert to_rfc3339(timestamp_ms) == text
