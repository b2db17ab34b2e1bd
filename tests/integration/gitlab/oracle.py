"""The right answers, asked of GitLab's own database."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

ORACLE: Final = Path(__file__).with_suffix(".sql")
UNAUTHORIZED: Final = {"message": "401 Unauthorized"}
BLOCKED: Final = "Your account has been blocked."
REASONS: Final = {
    "blocked_pending_approval": "Your account is pending approval from your administrator and"
    " hence blocked.",
    "deactivated": "Your account has been deactivated by your administrator. Please log back in"
    " from a web browser to reactivate your account.",
}
CI_TABLES: Final = ("p_ci_builds", "p_ci_builds_metadata")


class Verdict(NamedTuple):
    """A status, and the body that goes with it."""

    status: int
    body: Any


UNKNOWN: Final = Verdict(401, UNAUTHORIZED)


class Oracle:
    """GitLab's rules in SQL; where the jobs have a database of their own, it copies them."""

    def __init__(self, main: str, ci: str | None = None) -> None:
        self._main, self._ci = main, ci

    def answers(self) -> dict[int, Verdict]:
        """Return the right answer for each live job; all others are 401."""
        with psycopg.connect(self._main, options="-c jit=off") as main:
            if self._ci:
                with psycopg.connect(self._ci) as ci:
                    copy_jobs(ci, main)
            main.execute(ORACLE.read_bytes())
            rows = main.execute("SELECT id, status, state, body FROM answers").fetchall()
        return {job: verdict(*answer) for job, *answer in rows}


def copy_jobs(ci: psycopg.Connection[Any], main: psycopg.Connection[Any]) -> None:
    """Copy the jobs into temporary tables, which come before others of the same name."""
    for table in CI_TABLES:
        main.execute(f"CREATE TEMP TABLE {table} (LIKE {table})".encode())
        with (
            ci.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT".encode()) as source,
            main.cursor().copy(f"COPY pg_temp.{table} FROM STDIN".encode()) as target,
        ):
            for data in source:
                target.write(data)


def verdict(status: int, state: str | None, body: Any) -> Verdict:
    if status == 200:
        return Verdict(200, body)
    if status == 403:
        reason = REASONS.get(state or "", BLOCKED)
        return Verdict(403, {"message": f"403 Forbidden - {reason}"})
    return UNKNOWN
