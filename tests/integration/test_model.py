"""The models of the promises, docs/model, checked by Spin in every interleaving."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.absence import skip_test
from tests.integration.servers import REPOSITORY

MODELS = REPOSITORY / "docs" / "model"
FRESHNESS, SOURCES = "freshness.pml", "sources.pml"
# The longest run takes twenty seconds on one quiet core.
SPIN_S = 120
SAFETY = ("-O2", "-DSAFETY", "-w")
# Without -E a process that waits for ever counts as an error; a model of outages has some.
SEARCH = ("-E", "-n", "-m100000")

EITHER_TOKEN = ("ONE_WITNESS", "ENDS_FIRST", "STAMP_FIRST", "NO_HEAL", "NO_MEETING")
CURES_OF_KNOWN = (*EITHER_TOKEN, "LATEST_POLL")
CURES_OF_NEW = (*EITHER_TOKEN, "NO_PROOF", "ONE_POLL")

RULES_OF_WORKER = ("NO_AFTER", "NO_OFFSETS", "APART", "ENDS_FIRST", "WORKER_BEHIND")
RULES_OF_SENDER = (
    "LOOK_FIRST", "SENT_IS_ACKED", "FIRST_VOUCHES", "NO_ENDS", "ENDS_EARLY",
)  # fmt: skip
# The search for steps that break a promise is shorter with three heartbeats.
FEW = "LENGTH=3"

KNOWN: tuple[str, ...] = ()
NEW = ("NEW_TOKEN",)
either_model = pytest.mark.parametrize("model", [FRESHNESS, SOURCES], ids=["freshness", "sources"])
either_token = pytest.mark.parametrize("token", [KNOWN, NEW], ids=["known", "new"])


@pytest.fixture(autouse=True)
def _spin() -> None:
    """Skip without Spin."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        reason = f"THE MODEL IS NOT CHECKED: {' and '.join(missing)} not installed"
        skip_test(reason)


def errors(folder: Path, model: str, *macros: str) -> int:
    """Search all interleavings of the model; return the number of broken assertions."""
    flags = [f"-D{macro}" for macro in macros]
    run(folder, "spin", "-a", *flags, str(MODELS / model))
    run(folder, "gcc", *SAFETY, "-o", "pan", "pan.c")
    report = run(folder, "./pan", *SEARCH)
    assert "max search depth too small" not in report, report
    found = re.search(r"errors: (\d+)", report)
    assert found, report
    return int(found[1])


def run(folder: Path, *argv: str) -> str:
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, timeout=SPIN_S, check=True
    )
    return done.stdout


@either_model
@either_token
def test_both_promises_hold_in_every_interleaving(
    tmp_path: Path, model: str, token: tuple[str, ...]
) -> None:
    assert errors(tmp_path, model, *token) == 0


@either_token
def test_both_promises_hold_when_sources_is_made_again(
    tmp_path: Path, token: tuple[str, ...]
) -> None:
    assert errors(tmp_path, SOURCES, *token, "NEW_LOG") == 0


@either_model
@either_token
def test_the_answers_that_are_checked_are_given(
    tmp_path: Path, model: str, token: tuple[str, ...]
) -> None:
    assert errors(tmp_path, model, *token, "REACHED") == 1


@pytest.mark.parametrize("cure", CURES_OF_KNOWN)
def test_a_cure_less_makes_an_over_grant(tmp_path: Path, cure: str) -> None:
    assert errors(tmp_path, FRESHNESS, cure) == 1


@pytest.mark.parametrize("cure", CURES_OF_NEW)
def test_a_cure_less_makes_a_false_401(tmp_path: Path, cure: str) -> None:
    assert errors(tmp_path, FRESHNESS, "NEW_TOKEN", cure) == 1


@either_token
@pytest.mark.parametrize("rule", RULES_OF_WORKER)
def test_a_rule_of_the_worker_less_breaks_a_promise(
    tmp_path: Path, rule: str, token: tuple[str, ...]
) -> None:
    assert errors(tmp_path, SOURCES, *token, FEW, rule) == 1


@either_token
@pytest.mark.parametrize("rule", RULES_OF_SENDER)
def test_a_rule_of_the_sender_less_breaks_a_promise(
    tmp_path: Path, rule: str, token: tuple[str, ...]
) -> None:
    assert errors(tmp_path, SOURCES, *token, FEW, rule) == 1


@either_token
def test_an_after_of_another_log_breaks_a_promise(tmp_path: Path, token: tuple[str, ...]) -> None:
    assert errors(tmp_path, SOURCES, *token, "NEW_LOG", "ANY_RECORD") == 1


@pytest.mark.parametrize(
    ("model", "tried", "others"),
    [
        (FRESHNESS, {*CURES_OF_KNOWN, *CURES_OF_NEW}, set[str]()),
        (SOURCES, {*RULES_OF_WORKER, *RULES_OF_SENDER, "ANY_RECORD"}, {"NEW_LOG", "LENGTH"}),
    ],
    ids=["freshness", "sources"],
)
def test_every_macro_of_the_model_is_tried(model: str, tried: set[str], others: set[str]) -> None:
    text = (MODELS / model).read_text()
    named = set(re.findall(r"^ \*   ([A-Z_]+)  ", text, re.MULTILINE))
    used = set(re.findall(r"(?:ifn?def |defined\()(\w+)", text))
    assert named == tried
    assert used == named | others | {"NEW_TOKEN", "REACHED"}
