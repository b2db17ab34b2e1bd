"""`projector topics`: the partitions of every topic, and a setting that changes nothing."""

import pytest

from projector.cli import topics_command
from projector.cli.terminal import OUTAGE
from projector.config.settings import Settings
from projector.events.model import DEAD_LETTERS, Topic
from tests.unit.cli.runner import NOT_LISTENING, run


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics exist with four partitions."""

    async def create(settings: Settings) -> dict[str, int]:
        return {**dict.fromkeys(Topic, 4), DEAD_LETTERS: 1}

    async def find(settings: Settings) -> list[str]:
        return []

    monkeypatch.setattr(topics_command, "create_topics", create)
    monkeypatch.setattr(topics_command, "find_risks", find)


def test_without_kafka_topics_says_where_it_should_be() -> None:
    result = run("topics")
    assert result.exit_code == OUTAGE
    assert f"Kafka at {NOT_LISTENING} cannot be reached: no broker answers" in result.stderr


@pytest.mark.usefixtures("four")
def test_topics_lists_the_partitions_of_each_topic() -> None:
    result = run("topics")
    assert result.exit_code == 0
    assert result.stderr.startswith("4 partitions are for good, ")
    assert result.stdout.splitlines() == [
        "membership: 4 partitions", "agent-config: 4 partitions", "job-lifecycle: 4 partitions",
        "dead-letters: 1 partition",
    ]  # fmt: skip


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(("setting", "is_noted"), [("4", False), ("64", True)])
def test_topics_says_that_another_number_of_partitions_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, setting: str, is_noted: bool
) -> None:
    monkeypatch.setenv("PROJECTOR_PARTITIONS", setting)
    result = run("topics")
    assert result.exit_code == 0
    assert ("PROJECTOR_PARTITIONS is 64 and changes nothing" in result.stderr) is is_noted
    assert "for good" not in result.stderr


@pytest.mark.usefixtures("four")
def test_topics_warns_of_each_risk_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(settings: Settings) -> list[str]:
        return ["the topic membership is at risk", "so is agent-config"]

    monkeypatch.setattr(topics_command, "find_risks", find)
    result = run("topics")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[:-1] == [
        "the topic membership is at risk",
        "so is agent-config",
    ]
