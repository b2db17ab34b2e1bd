"""Columns of text, as wide as what is in them."""

from collections.abc import Iterator, Sequence
from typing import Final

UNKNOWN: Final = "?"


def known(value: object) -> str:
    """Write the value, or `UNKNOWN` for None."""
    return UNKNOWN if value is None else str(value)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write each row on one line; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
