"""`projector schemas`: the contract for events, as AsyncAPI and JSON Schemas."""

from pathlib import Path

import typer

from projector.cli.terminal import WRONG, fail
from projector.contract import files
from projector.log import escape_control_chars


def schemas(directory: Path | None) -> None:
    """Print the contract, or write its files."""
    if directory is None:
        typer.echo(files.asyncapi_yaml(), nl=False)
        return
    written = files.contract()
    try:
        for name, text in written.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        fail(WRONG, f"{error.filename}: {error.strerror}")
    typer.echo(escape_control_chars(f"{len(written)} files written to {directory}"))
