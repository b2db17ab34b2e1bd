"""The documents: relative links and anchors resolve; modules and tests that they name exist."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src"
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=REPOSITORY, capture_output=True, text=True, check=False,
).stdout.split()  # fmt: skip
# Without git (an archive of the sources) all but what setup and tests put there.
DOCUMENTS = [Path(name) for name in LISTED] or [
    path.relative_to(REPOSITORY)
    for path in REPOSITORY.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts)
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
# `worker/owner`, `domain/facts.py`, `api/ops/auth`: a module by its path.
MODULE = re.compile(r"`([a-z_]+(?:/[a-z_]+)+?)(?:\.py)?`")
# `faults/test_kafka.py`, `faults/test_kafka.py::test_frozen`, `test_heal_off`.
TEST = re.compile(r"([a-z/_]+/test_\w+\.py)?(?:::)?(test_\w+)?")
MUTATIONS = "faults/test_mutations.py"


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them; of equal ones the later are numbered."""
    found: list[str] = []
    for heading in HEADING.findall(prose(path)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        found.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return {
        name + (f"-{before}" if (before := found[:place].count(name)) else "")
        for place, name in enumerate(found)
    }


def broken(document: Path) -> list[str]:
    bad = []
    for link in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        missing = anchor and target.suffix == ".md" and target.is_file()
        if not target.exists() or (missing and anchor not in anchors(target)):
            bad.append(link)
    return bad


@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_every_relative_link_and_anchor_resolves(name: Path) -> None:
    assert broken(REPOSITORY / name) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# A word, `code`\n## Twice\n## Twice\n```sh\n# not a heading\n```\n"
        "[1](#a-word-code) [2](#twice-1) [3](a.md#twice) [4](https://example.com/x)\n"
        "[5](#not-a-heading) [6](b.md) [7](a.md#other)\n"
    )
    assert broken(document) == ["#not-a-heading", "b.md", "a.md#other"]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_module_that_is_named_exists(name: str) -> None:
    packages = {path.name for path in (SOURCE / "projector").iterdir() if path.is_dir()}
    packages |= {path.name for path in (SOURCE / "projector/gitlab").iterdir() if path.is_dir()}
    packages |= {"api", "projector"}
    named = {
        path for path in MODULE.findall(prose(REPOSITORY / name))
        if path.partition("/")[0] in packages
    }  # fmt: skip
    assert len(named) > 5
    assert {path for path in named if not exists(path)} == set()


def exists(path: str) -> bool:
    return any(
        (place / path).is_dir() or (place / f"{path}.py").is_file()
        for place in (SOURCE, SOURCE / "projector", SOURCE / "projector/gitlab")
    )


def test_every_test_that_the_guarantees_name_exists() -> None:
    text = prose(REPOSITORY / "docs" / "guarantees.md")
    named = [name for name in re.findall(r"`([^`\n]+)`", text) if "test_" in name]
    assert len(named) > 30
    assert [name for name in named if not is_test(name)] == []


def is_test(name: str) -> bool:
    match = TEST.fullmatch(name)
    if match is None:
        return False
    file = REPOSITORY / "tests" / (match[1] or MUTATIONS)
    return file.is_file() and (not match[2] or f"def {match[2]}(" in file.read_text())


@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_every_file_of_the_tests_that_is_named_exists(name: Path) -> None:
    named = re.findall(r"\btests/[\w/]+\.(?:py|yaml)\b", (REPOSITORY / name).read_text())
    assert [path for path in named if not (REPOSITORY / path).is_file()] == []


def test_every_picture_of_the_operators_page_is_small_and_shown() -> None:
    folder = REPOSITORY / "docs" / "operators-page"
    pictures = {path.name for path in folder.iterdir()}
    shown = re.findall(r"\(operators-page/([^)]+)\)", folder.with_suffix(".md").read_text())
    assert pictures == set(shown)
    assert max(path.stat().st_size for path in folder.iterdir()) <= 100 * 1024
