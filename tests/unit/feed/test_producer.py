"""The partitions that events must reach."""

import json
from typing import Any

import pytest

from projector.events.partitioning import partition_of
from projector.feed.event_file import parse_line
from projector.feed.producer import target_partitions
from tests.builders import agent, event, group, removed, started, user

INSTANCE = {"id": 5, "name": "shared", "project_id": 3, "configuration": {}}


@pytest.mark.parametrize("root", ["3", "40", "999", "9223372036854775807"])
def test_an_event_goes_to_the_partition_of_its_root_namespace(root: str) -> None:
    for message in (group(3, root=root), agent(5, 7, root=root), started(9, 7, root=root)):
        assert list(target_partitions(parse_line(json.dumps(message).encode()), 16)) == [
            partition_of(root, 16)
        ]


@pytest.mark.parametrize(
    "message",
    [user(1), event("instance-agent.set", INSTANCE), removed("instance-agent", 5)],
    ids=lambda message: message["type"],
)
def test_what_belongs_to_no_root_namespace_goes_to_every_partition(message: Any) -> None:
    assert list(target_partitions(parse_line(json.dumps(message).encode()), 16)) == list(range(16))
