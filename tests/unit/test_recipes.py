"""Recorded records of the feeders in docs/recipes.md, taken as a worker takes them."""

import json
from functools import cache

import pytest

from projector.domain.projection import Policy, Projection
from projector.events import cloudevents
from projector.events.model import KafkaRecord
from projector.events.partitioning import partition_of
from tests import builders, recordings
from tests.recordings import AGENT, ROOT, blocks, recording
from tests.unit.domain.world import RETENTION

DEBEZIUM, KNATIVE = recording("debezium"), recording("knative")
RECORDINGS = {"debezium": DEBEZIUM, "knative": KNATIVE}


@cache
def removals() -> list[tuple[str, KafkaRecord]]:
    """Return every recorded `member.removed`, with the name of its recording."""
    return [
        (name, record)
        for name, found in RECORDINGS.items()
        for record in found.records
        if cloudevents.decode_event(record).type == "member.removed"
    ]


def company() -> Projection:
    """Return the partition of a company with a job whose user may use an agent."""
    projection = Projection(partition_of(str(ROOT), 16), Policy(16, 30, RETENTION))
    feed = builders.Feed()
    for message in recordings.company():
        assert projection.apply(feed(message)._replace(partition=7)) is None
    return projection


def answer(projection: Projection) -> tuple[int, list[int]]:
    """Return the status of the job's token, and the agents."""
    view = projection.view(builders.digest("recorded"), builders.NOW)
    return view.status, [agent["id"] for agent in json.loads(view.body).get("allowed_agents", [])]


def test_the_recordings_are_those_of_the_recipes() -> None:
    (connector,) = blocks("json", recordings.DEBEZIUM)
    assert DEBEZIUM.recipe["connector"] == json.loads(connector)
    statements = blocks("sql", recordings.DEBEZIUM)
    assert [DEBEZIUM.recipe["table"], *DEBEZIUM.recipe["inserts"]] == statements
    (event,) = blocks("json", recordings.KNATIVE)
    assert KNATIVE.recipe["event"] == json.loads(event)


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recorded_record_is_an_event_in_the_partition_of_its_key(name: str) -> None:
    found = RECORDINGS[name]
    for record in found.records:
        event = cloudevents.decode_event(record)
        assert record.key == event.root.encode()
        assert event.kind.topic == record.topic
        assert event.time is not None
        assert event.sequence is not None
        if not event.kind.broadcast:
            assert record.partition == partition_of(event.root, found.partitions)


@pytest.mark.parametrize("number", range(3))
def test_a_recorded_removal_takes_the_agent_away(number: int) -> None:
    assert [name for name, _ in removals()] == ["debezium", "knative", "knative"]
    projection = company()
    assert answer(projection) == (200, [AGENT])
    _, removal = removals()[number]
    assert projection.apply(removal._replace(offset=100)) is None
    assert answer(projection) == (200, [])


def test_debeziums_broadcast_reaches_every_partition() -> None:
    blocked = [
        record for record in DEBEZIUM.records if cloudevents.decode_event(record).type == "user.set"
    ]
    assert [record.partition for record in blocked] == list(range(DEBEZIUM.partitions))
    projection = company()
    (own,) = (record for record in blocked if record.partition == 7)
    assert projection.apply(own._replace(offset=100)) is None
    assert answer(projection)[0] == 403
