"""Test that the PostgreSQL here sends what was recorded for the tests of the decoder."""

from contextlib import suppress

import pytest

from projector.errors import SnapshotNeededError
from projector.gitlab.mapping.tables import Change
from projector.gitlab.postgres.pgoutput import decode
from projector.gitlab.postgres.relations import Relations
from tests.absence import skip_test
from tests.integration.gitlab import postgres, recording
from tests.unit.gitlab import recorded


@pytest.fixture(scope="module")
def steps() -> dict[str, list[bytes]]:
    if reason := postgres.without_postgres():
        skip_test(reason)
    return recording.record()


def all_changes(steps: dict[str, list[bytes]]) -> list[Change]:
    relations, found = Relations(tokens=True), list[Change]()
    for messages in steps.values():
        with suppress(SnapshotNeededError):
            found += recorded.changes(messages, relations)
    return found


def test_every_step_is_recorded() -> None:
    assert list(recording.STEPS) == list(recorded.STEPS)


def test_this_postgres_sends_the_same_changes(steps: dict[str, list[bytes]]) -> None:
    assert all_changes(steps) == all_changes(recorded.STEPS)


def test_this_postgres_sends_nothing_that_is_not_decoded(steps: dict[str, list[bytes]]) -> None:
    for message in [message for messages in steps.values() for message in messages]:
        decode(message)
