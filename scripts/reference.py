"""Generator of docs/commands.md and docs/settings.md from the code."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.main import get_command

from projector.cli.main import app
from projector.config.connection_settings import ConnectionSettings
from projector.config.env import GITLAB, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings

DOCS: Final = Path(__file__).parents[1] / "docs"
NOTE: Final = "<!-- Written by `make reference` from the code: change it there. -->"
EXAMPLES: Final = "\b\n"
COMPLETION: Final = """
`projector --install-completion` makes bash, zsh, fish or PowerShell complete commands and options
with the Tab key. It adds a file to your home directory and, for bash and zsh, a line to `~/.bashrc`
or `~/.zshrc`. Open a new shell then. `projector --show-completion` prints what it would add.

A script of its own: `_PROJECTOR_COMPLETE=source_bash projector`, or `source_zsh`, `source_fish`.
"""
# Left out as noise: the types of values, and the bounds of ids.
TYPE: Final = re.compile(r" <(str|int|path|int range|list\[\w+\])>")
ID_BOUNDS: Final = re.compile(r" +\[1<=x<=9223372036854775807(; required)?\]")


def documents() -> dict[str, str]:
    """Return the text of each file in docs."""
    return {"commands.md": _commands(), "settings.md": _settings()}


# commands


def _commands() -> str:
    group = get_command(app)
    root = group.context_class(group, info_name="projector")
    leaves = list(_leaves(group, root))
    index = [
        f"| [`{path}`](#{path.replace(' ', '-')}) | {_first_sentence(command.help)} |"
        for path, command, _ in leaves
    ]
    sections = [line for path, command, context in leaves
                for line in _section(path, command, context)]  # fmt: skip
    about, exits, *more = _paragraphs(group.help)
    return _text(
        "# Commands", NOTE, about, "\n".join(["| command | |", "|---|---|", *index]), *more,
        "## Exit codes", exits, "## Completion", *_paragraphs(COMPLETION), *sections,
    )  # fmt: skip


def _leaves(command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield every command that is not a group, with its path and its context."""
    children = getattr(command, "commands", None)
    if children is None:
        yield context.command_path, command, context
        return
    for name in command.list_commands(context):
        child = children[name]
        yield from _leaves(child, child.context_class(child, info_name=name, parent=context))


def _section(path: str, command: Any, context: Any) -> Iterator[str]:
    text, _, examples = inspect.cleandoc(command.help).partition(EXAMPLES)
    yield f"## {path}"
    yield f"`{_usage(command, context)}`"
    yield from _paragraphs(text)
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    shown = [record for record in records if record and record[0] != "--help"]
    if shown:
        rows = [
            f"| `{_cell(TYPE.sub('', name))}` | {_cell(ID_BOUNDS.sub('', about))} |"
            for name, about in shown
        ]
        yield "\n".join(["| | |", "|---|---|", *rows])
    if examples:
        yield f"```sh\n{examples.strip()}\n```"


def _usage(command: Any, context: Any) -> str:
    usage = command.get_usage(context).removeprefix("Usage: ")
    return re.sub(r"{(\w+)}", r"\1", usage)


def _first_sentence(text: str) -> str:
    return " ".join(re.split(r"(?<=\.)\s", inspect.cleandoc(text), maxsplit=1)[0].split())


# settings


def _settings() -> str:
    groups: dict[str, list[str]] = {"Kafka": [], "Redis": [], "Everything else": []}
    for name, field in Settings.model_fields.items():
        server = name.partition("_")[0].capitalize()
        groups[server if server in groups else "Everything else"].append(_row(name, field))
    tables = [part for title, rows in groups.items() for part in (f"## {title}", _table(rows))]
    about, *more = _paragraphs(inspect.getdoc(Settings))
    _, *connections = _paragraphs(inspect.getdoc(ConnectionSettings))
    gitlab = [_row(GITLAB + name, field) for name, field in GitlabSettings.model_fields.items()]
    return _text(
        "# Settings", NOTE, about, *more, *connections, *tables,
        "## GitLab", *_paragraphs(inspect.getdoc(GitlabSettings)), _table(gitlab),
    )  # fmt: skip


def _table(rows: list[str]) -> str:
    return "\n".join(["| variable_name | default | |", "|---|---|---|", *rows])


def _row(name: str, field: FieldInfo) -> str:
    default = field.default
    shown = "" if default is None else "(empty)" if default == "" else f"`{_plain(default)}`"
    about = [field.description or "", *_values(field.annotation), *_bounds(field.metadata)]
    return f"| `{variable_name(name)}` | {shown} | {_cell('; '.join(about))} |"


def _values(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    if SecretStr in (annotation, *get_args(annotation)):
        yield "never logged"


def _bounds(metadata: list[Any]) -> Iterator[str]:
    least, most = (
        next((value for m in metadata if (value := getattr(m, bound, None)) is not None), None)
        for bound in ("ge", "le")
    )
    if least and most:
        yield f"{least} to {most}"
    elif least:
        yield f"at least {least}"


def _plain(default: Any) -> str:
    return f"{default:.15g}" if isinstance(default, float) else str(default)


# Markdown


def _paragraphs(text: str | None) -> list[str]:
    parts = inspect.cleandoc(text or "").split("\n\n")
    return [_linked(part.strip()) for part in parts if part.strip()]


def _linked(text: str) -> str:
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def _cell(text: str) -> str:
    return _linked(re.sub(r" +", " ", text.replace("|", "\\|")))


def _text(*blocks: str) -> str:
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    for document, text in documents().items():
        (DOCS / document).write_text(text)
