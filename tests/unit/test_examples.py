"""What the documents tell newcomers to feed: it is valid, and leaves the example world as it is."""

import json
import re
from pathlib import Path

import pytest

from projector.feed import agent_config_file, event_file

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs/events.md").read_text()
TYPES = CONTRACT[CONTRACT.index("\n## Types") : CONTRACT.index("\n## Values")]
BLOCKS = re.findall(r"```json\n(.*?)```", TYPES, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
DEMO = (ROOT / "examples/events.ndjson").read_text().splitlines()


def identity(line: str) -> tuple[str, int]:
    """Users, instance agents, jobs and digests mean the same under every partitionkey."""
    message = json.loads(line)
    return message["type"].partition(".")[0], message["data"].get("id", 0)


@pytest.mark.parametrize("line", LINES)
def test_the_contracts_examples_are_valid_and_about_a_world_of_their_own(line: str) -> None:
    assert event_file.parse_line(line.encode())
    assert json.loads(line)["partitionkey"] not in {json.loads(d)["partitionkey"] for d in DEMO}
    assert identity(line)[1] == 0 or identity(line) not in {identity(d) for d in DEMO}
    digest = json.loads(line)["data"].get("token_sha256", "none")
    assert not any(digest in other for other in DEMO)


def test_the_examples_of_a_file_belong_to_the_example_world() -> None:
    access = agent_config_file.read_agent_config((ROOT / "examples/agent-config.yaml").read_bytes())
    assert access.notes == []
    known = {json.loads(line)["data"].get("path") for line in DEMO}
    assert {entry["id"] for entry in access.projects + access.groups} <= known
