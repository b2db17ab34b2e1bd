"""Options that several commands share."""

from typing import Annotated

import typer

from projector.errors import NoSuchPartitionError
from projector.process import MAX_PORT

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead, one object a line.")]
Partitions = Annotated[
    list[int] | None,
    typer.Option("--partition", help="This partition only; may be repeated.", min=0),
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=MAX_PORT)]


def chosen(partitions: list[int] | None, count: int) -> list[int]:
    """Return the named partitions, or all of them; raises `NoSuchPartitionError`."""
    wanted = sorted(set(partitions or range(count)))
    if wanted[-1] >= count:
        raise NoSuchPartitionError(wanted[-1], count)
    return wanted
