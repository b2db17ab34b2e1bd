"""Where docs/events.md says that an event belongs. For the producers in Python."""

import json
import sys
from collections.abc import Iterator
from typing import Any

TOPICS = {
    "group": "membership", "project": "membership", "member": "membership", "user": "membership",
    "agent": "agent-config", "shared-agent": "agent-config", "instance-agent": "agent-config",
    "job": "job-lifecycle",
}  # fmt: skip
BROADCASTS = ("user.set", "instance-agent.set", "instance-agent.removed")


def read() -> Iterator[dict[str, Any]]:
    """Yield the events of standard input, one a line."""
    return map(json.loads, sys.stdin)


def topic_of(event: dict[str, Any]) -> str:
    return TOPICS[event["type"].partition(".")[0]]


def partitions_of(event: dict[str, Any], partitions: int) -> list[int | None]:
    """Return every partition for a broadcast, else None: the partitioner chooses."""
    return [*range(partitions)] if event["type"] in BROADCASTS else [None]
