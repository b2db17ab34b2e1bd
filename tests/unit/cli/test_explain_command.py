"""`projector explain`: the answer first, and the exit code with it."""

import json

import pytest

from projector.explain.model import ExplanationReport
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
    assert f"[agent-config/{HOME}:0 of " in allowed.stdout


@pytest.mark.usefixtures("company")
def test_explain_as_json_is_one_object_with_the_documented_names() -> None:
    found = json.loads(run("explain", "9", "6", "--json").stdout)
    assert found.keys() == set(ExplanationReport.__struct_fields__)
    assert found["explanation"]["agent"]["rule"] == "not_granted"
    assert found["explanation"]["groups"][0]["event"]["topic"] == "membership"
