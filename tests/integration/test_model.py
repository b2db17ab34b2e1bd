"""The model of the promises, docs/model/freshness.pml, checked by Spin in every interleaving."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.absence import skip_test
from tests.integration.servers import REPOSITORY

MODEL = REPOSITORY / "docs" / "model" / "freshness.pml"
# The longest run takes ten seconds on one quiet core.
SPIN_S = 120
SAFETY = ("-O2", "-DSAFETY", "-w")
# Without -E a process that waits for ever counts as an error; a model of outages has some.
SEARCH = ("-E", "-n", "-m100000")

EITHER_TOKEN = ("ONE_WITNESS", "ENDS_FIRST", "STAMP_FIRST", "NO_HEAL", "NO_MEETING")
CURES_OF_KNOWN = (*EITHER_TOKEN, "LATEST_POLL")
CURES_OF_NEW = (*EITHER_TOKEN, "NO_PROOF", "ONE_POLL")


@pytest.fixture(autouse=True)
def _spin() -> None:
    """Skip without Spin."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        reason = f"THE MODEL IS NOT CHECKED: {' and '.join(missing)} not installed"
        skip_test(reason)


def errors(folder: Path, *macros: str) -> int:
    """Search all interleavings of the model; return the number of broken assertions."""
    flags = [f"-D{macro}" for macro in macros]
    run(folder, "spin", "-a", *flags, str(MODEL))
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


@pytest.mark.parametrize("token", [(), ("NEW_TOKEN",)], ids=["known", "new"])
def test_both_promises_hold_in_every_interleaving(tmp_path: Path, token: tuple[str, ...]) -> None:
    assert errors(tmp_path, *token) == 0


@pytest.mark.parametrize("token", [(), ("NEW_TOKEN",)], ids=["known", "new"])
def test_the_answers_that_are_checked_are_given(tmp_path: Path, token: tuple[str, ...]) -> None:
    assert errors(tmp_path, *token, "REACHED") == 1


@pytest.mark.parametrize("cure", CURES_OF_KNOWN)
def test_a_cure_less_makes_an_over_grant(tmp_path: Path, cure: str) -> None:
    assert errors(tmp_path, cure) == 1


@pytest.mark.parametrize("cure", CURES_OF_NEW)
def test_a_cure_less_makes_a_false_401(tmp_path: Path, cure: str) -> None:
    assert errors(tmp_path, "NEW_TOKEN", cure) == 1


def test_every_macro_of_the_model_is_tried() -> None:
    named = set(re.findall(r"^ \*   ([A-Z_]+)  ", MODEL.read_text(), re.MULTILINE))
    used = set(re.findall(r"(?:ifn?def |defined\()(\w+)", MODEL.read_text()))
    assert named == {*CURES_OF_KNOWN, *CURES_OF_NEW}
    assert used == named | {"NEW_TOKEN", "REACHED"}
