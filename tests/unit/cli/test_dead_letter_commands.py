"""`projector dead-letters`: files and servers that are not there."""

from pathlib import Path

import pytest

from projector.cli.terminal import OUTAGE, WRONG
from tests.unit.cli.runner import NOT_LISTENING, run


@pytest.mark.parametrize("command", [["list"], ["show", "1"], ["replay", "1"]], ids=lambda c: c[0])
def test_without_kafka_dead_letters_say_where_it_should_be(command: list[str]) -> None:
    result = run("dead-letters", *command)
    assert result.exit_code == OUTAGE
    assert f"Kafka at {NOT_LISTENING} cannot be reached" in result.stderr


def test_a_mended_event_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = str(tmp_path / "missing")
    result = run("dead-letters", "replay", "1", "--event", file)
    assert (result.exit_code, result.stderr) == (WRONG, f"{file}: No such file or directory\n")
