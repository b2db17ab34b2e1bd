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
        self._main = psycopg.connect(main)
        self._ci = psycopg.connect(ci) if ci else None
        if self._ci:
            for table in CI_TABLES:  # temporary tables come before others of the same name
                self._main.execute(f"CREATE TEMP TABLE {table} (LIKE {table})".encode())
        self._main.execute(ORACLE.read_bytes())
        self._main.commit()

    def close(self) -> None:
        self._main.close()
        if self._ci:
            self._ci.close()

    def answers(self) -> dict[int, Verdict]:
        """Return the right answer for each live job; all others are 401."""
        if self._ci:
            self._copy_jobs(self._ci)
        rows = self._main.execute("SELECT id, status, state, body FROM answers").fetchall()
        self._main.rollback()
        return {job: self._verdict(*answer) for job, *answer in rows}

    def _copy_jobs(self, ci: psycopg.Connection[Any]) -> None:
        for table in CI_TABLES:
            self._main.execute(f"DELETE FROM pg_temp.{table}".encode())
            with (
                ci.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT".encode()) as source,
                self._main.cursor().copy(f"COPY pg_temp.{table} FROM STDIN".encode()) as target,
            ):
                for data in source:
                    target.write(data)
        ci.rollback()

    def _verdict(self, status: int, state: str | None, body: Any) -> Verdict:
        if status == 200:
            return Verdict(200, body)
        if status == 403:
            reason = REASONS.get(state or "", BLOCKED)
            return Verdict(403, {"message": f"403 Forbidden - {reason}"})
        return UNKNOWN
