"""The lines that `projector rebuild` prints, as text and as JSON."""

import json
from typing import Any

import pytest

from projector.cli import rebuild_command
from projector.domain.entities import Group
from projector.domain.facts import Fact
from projector.domain.views import tombstone
from projector.operators.rebuild.run import (
    FactDifference,
    Finding,
    InPlace,
    Loss,
    NotCompared,
    ViewDifference,
)
from projector.operators.verify.differences import Difference
from projector.store.schema import Version
from projector.store.view_diff import Mismatch, StoredValue
from tests.builders import digest

FACT: Any = Fact(4, 1000, data=Group(None, "g"))
VIEW = Difference(
    1, digest("token"), (Mismatch.EXPIRY,), tombstone(digest("token"), 0), StoredValue(None, 0),
    None, Version(1, 1), 0,
)  # fmt: skip
FACT_JSON = {"offset": 4, "timestamp": 1000, "data": {"parent": None, "path": "g"}}
FACT_TEXT = '{"offset":4,"timestamp":1000,"data":{"parent":null,"path":"g"}}'
SHA = digest("token")
CASES: list[tuple[Finding, dict[str, Any], str]] = [
    (
        Loss(partition=1, reason="membership begins at offset 5"),
        {"partition": 1, "what": "loss", "reason": "membership begins at offset 5"},
        "membership begins at offset 5",
    ),
    (
        NotCompared(partition=1, reason="no facts"),
        {"partition": 1, "what": "not compared", "reason": "no facts"},
        "the checkpoint cannot be compared: no facts",
    ),
    (
        FactDifference(
            partition=1, what="fact extra", key="3/group/3", stored=FACT, rebuilt=None
        ),
        {
            "partition": 1, "what": "fact extra", "key": "3/group/3", "stored": FACT_JSON,
            "rebuilt": None,
        },
        f"fact extra: partition 1, 3/group/3: the checkpoint has {FACT_TEXT}, "
        "the topics say nothing",
    ),
    (
        InPlace(partition=1, facts=5, claimed=True),
        {"partition": 1, "what": "in place", "facts": 5, "claimed": True},
        "partition 1: 5 facts in place, and a worker has claimed it",
    ),
    (
        InPlace(partition=1, facts=5, claimed=False),
        {"partition": 1, "what": "in place", "facts": 5, "claimed": False},
        "partition 1: 5 facts in place, but no worker has claimed it: start one, or its lookups "
        "get 503",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("finding", "row", "text"), CASES)
def test_a_finding_is_printed(
    finding: Finding, row: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuild_command._show_as_json(finding)
    printed = capsys.readouterr().out
    assert (json.loads(printed), list(json.loads(printed))) == (row, list(row))
    rebuild_command._show(finding)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(("settled", "outcome"), [(True, "changes"), (False, "not settled")])
def test_a_view_is_printed_like_those_of_verify(
    settled: bool, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = ViewDifference(VIEW, settled)
    rebuild_command._show_as_json(finding)
    row = json.loads(capsys.readouterr().out)
    assert (row["token_sha256"], row["differences"], row["outcome"]) == (SHA, ["expiry"], outcome)
    rebuild_command._show(finding)
    text = capsys.readouterr().out
    assert text.startswith(f"{outcome}: partition 1, job 0, token {SHA}: ")


def test_what_stands_in_redis_cannot_write_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = "3/group/\x1b[31m"
    finding = FactDifference(partition=1, what="fact extra", key=key, stored=FACT, rebuilt=None)
    for show in (rebuild_command._show, rebuild_command._show_as_json):
        show(finding)
        assert "\x1b" not in capsys.readouterr().out
