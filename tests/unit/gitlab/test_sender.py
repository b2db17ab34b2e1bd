"""The sender's bounds, without Kafka."""

import pytest

from projector.config.settings import Settings
from projector.gitlab.mapping.envelope import MAX_TIME_AGE_MS
from projector.gitlab.sender import max_time_age_ms


@pytest.mark.parametrize(
    ("retention", "age"), [(7 * 24 * 3600, MAX_TIME_AGE_MS), (3600, 1_800_000)]
)
def test_no_time_is_sent_that_a_worker_would_soon_refuse(retention: float, age: int) -> None:
    assert max_time_age_ms(Settings(tombstone_retention=retention)) == age
