"""The wiring's own checks; the rest of the worker is tested on real brokers."""

from typing import NamedTuple

import pytest

from projector.events import Topic
from projector.settings import Settings
from projector.worker import NotCopartitionedError, copartitioned

SETTINGS = Settings(topic_prefix="x.")


class TopicPartition(NamedTuple):
    topic: str
    partition: int


def assignment(**partitions: list[int]) -> set[TopicPartition]:
    names = {
        "membership": Topic.MEMBERSHIP,
        "agents": Topic.AGENT_CONFIG,
        "jobs": Topic.JOB_LIFECYCLE,
    }
    return {TopicPartition(f"x.{names[t]}", p) for t, ps in partitions.items() for p in ps}


def test_an_assignment_has_the_same_partitions_of_each_topic() -> None:
    assigned = assignment(membership=[1, 3], agents=[1, 3], jobs=[1, 3])
    assert copartitioned(assigned, SETTINGS) == {1, 3}
    assert copartitioned(set(), SETTINGS) == set()


def test_any_other_assignment_is_refused() -> None:
    """Its views would be computed without the memberships or the agents."""
    with pytest.raises(NotCopartitionedError, match=r"'agent-config': \[1, 2\]"):
        copartitioned(assignment(membership=[1], agents=[1, 2], jobs=[1]), SETTINGS)
