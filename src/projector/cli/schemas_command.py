"""`projector schemas`: the contract for events, as AsyncAPI and JSON Schemas."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from projector.cli.terminal import WRONG, fail
from projector.contract import asyncapi, json_schemas
from projector.log import escape_control_chars


def schemas(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIRECTORY", help="Where to write asyncapi.yaml and schemas/.",
            show_default=False,
        ),
    ] = None,
) -> None:  # fmt: skip
    """Print the contract for events as AsyncAPI 3.0, or write it with its JSON Schemas.

    Needs neither Kafka nor settings. With DIRECTORY it writes DIRECTORY/asyncapi.yaml and
    DIRECTORY/schemas/TYPE.json, a JSON Schema (2020-12) of every type of event and of heartbeats.

    Exits with 0; with 2 when a file cannot be written.

    \b
    projector schemas > asyncapi.yaml
    projector schemas contract
    """
    if directory is None:
        typer.echo(_asyncapi(), nl=False)
        return
    written = contract()
    try:
        for name, text in written.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        fail(WRONG, f"{error.filename}: {error.strerror}")
    typer.echo(escape_control_chars(f"{len(written)} files written to {directory}"))


def contract() -> dict[str, str]:
    """Return the text of each file of the contract, by its path."""
    return {"asyncapi.yaml": _asyncapi()} | {
        f"schemas/{name}.json": json.dumps(json_schemas.event(name), indent=2) + "\n"
        for name in json_schemas.TYPES
    }


class _Dumper(yaml.SafeDumper):
    """Writes YAML without anchors, which some readers do not follow."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", str(text), style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(str, _Dumper.represent_text)


def _asyncapi() -> str:
    text: str = yaml.dump(
        asyncapi.document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text
