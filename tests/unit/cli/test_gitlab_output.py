"""The output of `projector gitlab check`: findings, and a true summary."""

from collections.abc import Iterator

import pytest
import typer

from projector.cli import gitlab_output
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import TemporaryError
from projector.gitlab.setup.check import Checked
from projector.gitlab.setup.findings import SHELL, Finding, Remedy, finding

GITLAB = GitlabSettings(database="host=nowhere")  # type: ignore[arg-type]
TOPICS = Finding("No topics.", (Remedy(SHELL, "projector topics"),))


def exit_code(monkeypatch: pytest.MonkeyPatch, *found: Finding) -> int:
    def check(_gitlab: GitlabSettings) -> Iterator[Checked]:
        yield Checked("db", list(found))

    async def check_kafka(*_: object) -> list[Finding]:
        return []

    monkeypatch.setattr(gitlab_output, "check", check)
    monkeypatch.setattr(gitlab_output, "check_kafka", check_kafka)
    with pytest.raises(typer.Exit) as ended:
        gitlab_output.print_check(Settings(), GITLAB)
    return ended.value.exit_code


@pytest.mark.parametrize(
    ("found", "summary"),
    [
        (TOPICS, "1 to mend"),
        (finding("No senders.", "ALTER SYSTEM SET max_wal_senders = 10;"), "1 to mend"),
        (
            finding("No right.", "GRANT SELECT (id) ON routes TO projector;"),
            "1 to mend; `projector gitlab check --sql` prints role, rights and publication",
        ),
    ],
)
def test_the_script_is_named_where_it_mends_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Finding,
    summary: str,
) -> None:  # fmt: skip
    assert exit_code(monkeypatch, found) == 2
    assert capsys.readouterr().out.splitlines()[-1] == summary


def test_a_kafka_that_stands_still_is_an_outage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def check_kafka(*_: object) -> list[Finding]:
        raise TemporaryError("no answer within 10 s")

    monkeypatch.setattr(gitlab_output, "check", lambda _: iter(()))
    monkeypatch.setattr(gitlab_output, "check_kafka", check_kafka)
    with pytest.raises(typer.Exit) as ended:
        gitlab_output.print_check(Settings(kafka="kafka:9092"), GITLAB)
    assert ended.value.exit_code == 3
    assert "Kafka at kafka:9092 cannot be reached: no answer" in capsys.readouterr().err
