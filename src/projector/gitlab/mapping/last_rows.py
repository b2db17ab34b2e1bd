"""The last row of each id in a piece of a transaction."""

from collections.abc import Iterable, Iterator

from projector.gitlab.mapping.tables import TABLES, UNCHANGED, Change, Row

# UNCHANGED in an incoming table, as SQL has it: GitLab's columns of text hold no BLOB.
_UNSENT = b""


class LastRows:
    """The last row of each id in a piece, for one table."""

    def __init__(self, width: int) -> None:
        self.unsent = False
        self._nothing = (None,) * (width - 1)
        self._rows: dict[int, Row | None] = {}
        self._inserted: dict[int, bool] = {}

    def add(self, change: Change) -> None:
        """Note a change; values that it leaves out come from the row before."""
        row = change.row
        if row is not None and UNCHANGED in row:
            row = _filled(row, self._rows.get(change.id))
            self.unsent = self.unsent or UNCHANGED in row
        self._rows[change.id] = row
        self._inserted[change.id] = change.inserted or self._inserted.get(change.id, False)

    def incoming(self) -> Iterator[tuple[object, ...]]:
        """Iterate over rows as the incoming table has them."""
        for row_id, row in self._rows.items():
            if row is None:
                yield (row_id, *self._nothing, 0, 1)
            else:
                values: tuple[object, ...] = row
                if self.unsent:
                    values = tuple(_UNSENT if value is UNCHANGED else value for value in row)
                yield (*values, self._inserted[row_id], 0)


def _filled(row: Row, before: Row | None) -> Row:
    if before is None:
        return row
    return tuple(
        old if value is UNCHANGED else value for value, old in zip(row, before, strict=True)
    )


def last_rows(changes: Iterable[Change]) -> dict[str, LastRows]:
    """Reduce changes to the last row of each id, by table."""
    pieces: dict[str, LastRows] = {}
    for change in changes:
        rows = pieces.get(change.table)
        if rows is None:
            rows = pieces[change.table] = LastRows(len(TABLES[change.table].columns))
        rows.add(change)
    return pieces
