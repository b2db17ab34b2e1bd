"""The references of commands and settings: as committed, and as the code decides."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from projector.cli.main import app
from projector.config.env import GITLAB, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS: dict[str, str] = runpy.run_path(str(REPOSITORY / "scripts/reference.py"))["documents"]()


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    for name, child in (children or {}).items():
        yield from leaves(child, f"{path} {name}")


FIELDS = Settings.model_fields | {
    GITLAB + name: field for name, field in GitlabSettings.model_fields.items()
}
COMMANDS = dict(leaves(get_command(app), "projector"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_reference_is_the_code(name: str) -> None:
    committed = (REPOSITORY / "docs" / name).read_text()
    assert committed == DOCUMENTS[name], f"docs/{name} is not up to date; run `make reference`"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_in_the_reference_with_its_options_and_exit_codes(path: str) -> None:
    _, found, rest = DOCUMENTS["commands.md"].partition(f"\n## {path}\n")
    section = rest.partition("\n## ")[0]
    assert found
    assert "\nExits with 0" in section
    for option in COMMANDS[path].params:
        if not option.hidden:
            names = (option.opts[0], option.metavar)
            assert any(f"| `{name}" in section for name in names if name), option.opts


def test_every_exit_code_is_in_the_reference() -> None:
    _, _, rest = DOCUMENTS["commands.md"].partition("\n## Exit codes\n")
    section = " ".join(rest.partition("\n## ")[0].split())
    for code in range(4):
        assert f"with {code} when" in section


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_in_the_reference_with_its_meaning(name: str) -> None:
    (row,) = [
        line for line in DOCUMENTS["settings.md"].splitlines()
        if line.startswith(f"| `{variable_name(name)}` |")
    ]  # fmt: skip
    description = FIELDS[name].description
    assert description
    assert description.partition(" (docs/")[0] in row
