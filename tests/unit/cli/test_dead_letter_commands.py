"""`projector dead-letters`: files and servers that are not there."""

from pathlib import Path

import pytest

from projector.cli import dead_letter_commands, dead_letter_list
from projector.cli.terminal import OUTAGE, WRONG
from projector.config.settings import Settings
from projector.operators.dead_letters.letters import LatestLetters, LetterSummary
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


async def test_without_redis_letters_are_listed_with_those_that_were_replayed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(redis_url=f"redis://{NOT_LISTENING}/0")
    assert await dead_letter_list._places(settings) == {}
    await dead_letter_commands._mark(settings, {"0:1@5": "membership 1:7"}, {})
    listing, marking = capsys.readouterr().err.splitlines()
    assert listing.endswith("; letters that were replayed are listed too")
    assert marking.endswith("; `list` shows the replayed letters again")


def test_a_list_has_columns_with_headings_and_escapes_what_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letters = [
        LetterSummary("0:7", "2026-11-23T05:19:23.174+00:00", "membership", "bad", 1, 5, 4,
                      "group.set", "/a", None, "membership 3:9"),
        LetterSummary("0:12", "soon", None, "\x1b[31mred", None, None, None),
    ]  # fmt: skip

    async def read(*_: object) -> LatestLetters:
        return LatestLetters(letters, 2, 3, 1)

    async def nowhere(_settings: Settings) -> dict[str, str]:
        return {}

    monkeypatch.setattr(dead_letter_list, "read_latest", read)
    monkeypatch.setattr(dead_letter_list, "_places", nowhere)
    assert run("dead-letters", "list", "--all").stdout.splitlines() == [
        "LETTER  REFUSED               TYPE       SOURCE  ORIGINAL        REPLAYED        REASON",
        "0:7     2026-11-23T05:19:23Z  group.set  /a      membership/1:5  membership 3:9  bad",
        "0:12    soon                  ?          ?       ?/?:?           -               "
        "\\x1b[31mred",
        "2 shown of 2 that match, 3 dead letters in all",
    ]
    assert run("dead-letters", "list").stdout.splitlines()[-1] == (
        "2 shown of 2 that match, 3 dead letters in all; 1 replayed, listed with --all"
    )
