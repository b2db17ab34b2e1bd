"""Options that several commands share."""

from typing import Annotated

import typer

from projector.ports import MAX_PORT

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead, one object a line.")]
Partitions = Annotated[
    list[int] | None,
    typer.Option("--partition", help="This partition only; may be repeated.", min=0),
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=MAX_PORT)]
