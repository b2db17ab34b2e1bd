"""Refusals of PostgreSQL that last until an administrator acts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from psycopg import OperationalError

from projector.errors import AccessError
from projector.gitlab.setup.connection_refusals import explain, target_of

ADVICE: Final = "`projector gitlab check` finds what must be mended"
# Authorization, a database that does not exist, and missing rights.
_LASTING: Final = ("28", "3D", "42501")


@contextmanager
def explained_access(dsn: str) -> Iterator[None]:
    """Raise `AccessError` where PostgreSQL refuses the connection, and will go on to."""
    try:
        yield
    except OperationalError as error:
        refused = explain(str(error), target_of(dsn))
        if refused.is_outage or refused.may_pass:
            raise
        raise AccessError(f"{refused.finding.sentence} {ADVICE}") from error


def in_one_line(error: Exception) -> Exception:
    """Return the error without the lines behind the first, which may quote a statement.

    Where rights are missing it has an advice.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return error
    is_lasting = str(getattr(error, "sqlstate", None)).startswith(_LASTING)
    return type(error)(f"{lines[0]}; {ADVICE}" if is_lasting else lines[0])
