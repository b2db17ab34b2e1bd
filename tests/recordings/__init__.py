"""Records that Debezium and Knative's serializer sent to Kafka; `record.py` records them again."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from projector.events.model import KafkaRecord, Topic
from tests import builders

HERE = Path(__file__).parent
RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
DEBEZIUM, KNATIVE = "Debezium's outbox event router", "Knative"
# The company that the recorded events are about.
ROOT, PROJECT, USER, AGENT, JOB = range(1500, 1505)


class Recording(NamedTuple):
    """The records of one feeder, in topics of `partitions` partitions each."""

    partitions: int
    records: list[KafkaRecord]
    # The parts of docs/recipes.md that led to them.
    recipe: dict[str, Any]


def recording(name: str) -> Recording:
    """Read a recording."""
    file = json.loads((HERE / f"{name}.json").read_text())
    records = [_record(offset, record) for offset, record in enumerate(file.pop("records"))]
    return Recording(file.pop("partitions"), records, file)


def company() -> list[builders.Message]:
    """Return the events of a company with a job, `recorded`, whose user may use an agent."""
    root = str(ROOT)
    return [
        builders.group(ROOT, root=root, path="recorded"),
        builders.project(PROJECT, ROOT, root=root, path="recorded/shop"),
        builders.member(USER, group_id=ROOT, root=root),
        builders.agent(AGENT, PROJECT, root=root),
        builders.started(JOB, PROJECT, USER, token="recorded", root=root),
    ]


def _record(offset: int, fields: dict[str, Any]) -> KafkaRecord:
    headers = tuple((name, content.encode()) for name, content in fields["headers"])
    return KafkaRecord(
        Topic(fields["topic"]), fields["partition"], offset, fields["timestamp"],
        fields["key"].encode(), fields["value"].encode(), headers,
    )  # fmt: skip


def blocks(language: str, section: str) -> list[str]:
    """Return the blocks of code in a section of the recipes."""
    text = RECIPES.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
