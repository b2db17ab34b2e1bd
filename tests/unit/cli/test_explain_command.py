"""`projector explain`: the answer first, and the exit code with it."""

import json
import re
from typing import Any

import pytest

from projector.cli import explain_command
from projector.explain.model import (
    EventRef,
    ExplainedAgent,
    ExplainedAuthorization,
    ExplanationReport,
)
from tests.unit.cli.runner import run
from tests.unit.operators.worlds import HOME


@pytest.mark.usefixtures("company")
def test_explain_begins_with_the_answer_and_exits_with_it() -> None:
    allowed, refused, all_of_them = (run("explain", "9", *a) for a in (["5"], ["6"], []))
    assert (allowed.exit_code, refused.exit_code, all_of_them.exit_code) == (0, 1, 0)
    assert allowed.stdout.splitlines()[0] == (
        "Job 9 may use agent 5: it is configured in project 7, the job's own"
    )
    assert refused.stdout.startswith("Job 9 may not use agent 6: it is configured in project 8")
    assert all_of_them.stdout.startswith("Job 9 may use 1 of the 1 agent that reaches its project")


@pytest.mark.usefixtures("company")
def test_events_are_named_on_request_with_a_local_time() -> None:
    plain, full = run("explain", "9", "5"), run("explain", "9", "5", "--events")
    assert f"agent-config/{HOME}:0" not in plain.stdout
    named = rf"\[agent-config/{HOME}:0 of (\d{{4}}-\d\d-\d\d )?\d\d:\d\d:\d\d\]"
    assert re.search(named, full.stdout)
    assert len(full.stdout.splitlines()) == len(plain.stdout.splitlines())


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize("width", [80, 100])
def test_on_a_terminal_no_line_is_wider_than_it(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run("explain", "9", "6", "--events").stdout
    assert "\x1b[1;31mJob 9 may not use agent 6" in shown
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= width
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in run("explain", "9", "6").stdout


@pytest.mark.usefixtures("company")
def test_a_question_about_one_agent_has_the_reason_once() -> None:
    reason = "it is configured in project 8"
    assert run("explain", "9", "6").stdout.count(reason) == 1


def test_a_farther_grant_is_a_sentence() -> None:
    lost = ExplainedAuthorization("group_grant", 3, None, "its configuration grants it to group 3")
    agent = ExplainedAgent(
        5, "x", 7, "allowed", None, "it is configured in project 7", "own_project", None, {},
        None, None, None, [lost], [], [], 0,
    )  # fmt: skip
    assert [row.text for row in explain_command._agent(agent, answered=False)][-1] == (
        "besides, its configuration grants it to group 3; the closer grant decides instead"
    )


@pytest.mark.parametrize(
    ("source", "configuration", "shown"),
    [
        ("group_grant", {"access_as": 1}, ['the entry that counts: {"access_as": 1}']),
        ("group_grant", {}, ["the entry that counts: {}"]),
        ("group_grant", None, ["the entry that counts: too large to show"]),
        ("own_project", {}, []),
    ],
)
def test_the_entry_that_counts_is_shown_as_it_is(
    source: str, configuration: dict[str, Any] | None, shown: list[str]
) -> None:
    event = EventRef("agent-config", 0, 0, "2027-01-01T00:00:00+00:00")
    agent = ExplainedAgent(
        5, "x", None, "allowed", None, "it may", source, None, configuration, None, event, None,
        [], [], [], 0,
    )  # fmt: skip
    assert [row.text for row in explain_command._agent(agent, answered=True)][1:] == shown


@pytest.mark.usefixtures("company")
def test_explain_as_json_is_one_object_with_the_documented_names() -> None:
    found = json.loads(run("explain", "9", "6", "--json").stdout)
    assert found.keys() == set(ExplanationReport.__struct_fields__)
    assert found["explanation"]["agent"]["rule"] == "not_granted"
    assert found["explanation"]["groups"][0]["event"]["topic"] == "membership"
