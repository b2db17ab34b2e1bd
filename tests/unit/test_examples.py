"""What the documents tell newcomers to feed: it is valid, and leaves the example world as it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from projector.cli.main import app
from projector.config.settings import Settings
from projector.dev import example
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


@pytest.mark.parametrize("name", ["events.ndjson", "export.ndjson"])
def test_the_examples_are_as_the_script_writes_them(tmp_path: Path, name: str) -> None:
    script = ROOT / "scripts/example_events.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    assert (tmp_path / name).read_text() == (ROOT / "examples" / name).read_text()


def test_the_examples_of_a_file_belong_to_the_example_world() -> None:
    access = agent_config_file.read_agent_config((ROOT / "examples/agent-config.yaml").read_bytes())
    assert access.notes == []
    known = {json.loads(line)["data"].get("path") for line in DEMO}
    assert {entry["id"] for entry in access.projects + access.groups} <= known


def test_the_example_of_the_wheel_is_that_of_the_repository() -> None:
    """To mend it: cp examples/events.ndjson src/projector/dev/events.ndjson."""
    assert example.EVENTS.read_text() == (ROOT / "examples/events.ndjson").read_text()


def test_the_example_starts_nothing_with_the_settings_of_the_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`make run` fed its companies into the Kafka that PROJECTOR_KAFKA names."""
    started: list[tuple[str, list[str]]] = []

    async def run(settings: Settings, _port: int, _visit: object) -> None:
        names = [name for name in os.environ if name.upper().startswith("PROJECTOR_")]
        started.append((settings.kafka, names))

    monkeypatch.setattr("projector.dev.run.run_dev", run)
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    monkeypatch.setenv("PROJECTOR_KAFKA", "production:9092")
    monkeypatch.setenv("projector_redis_url", "redis://production/0")
    done = CliRunner().invoke(app, ["dev", "--example", "--port", "0"])
    assert done.exit_code == 0, done.output
    assert started == [("127.0.0.1:9092", [])]


def test_the_sender_of_heartbeats_prints_its_usage() -> None:
    sender = [sys.executable, str(ROOT / "examples/heartbeats.py")]
    for arguments in [], ["kafka-1:9092", "acme"], ["a", "b", "c", "d", "e"]:
        done = subprocess.run([*sender, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "usage: heartbeats.py KAFKA SOURCE FILE [TOPIC_PREFIX]\n"


@pytest.mark.parametrize("name", ["send.sh", "send.py", "send.go", "send.ts"])
def test_the_documents_show_each_client_of_the_ingest_as_it_is(name: str) -> None:
    client = (ROOT / "examples/ingest" / name).read_text()
    assert f"\n{client}```\n" in (ROOT / "docs/ingest.md").read_text()
