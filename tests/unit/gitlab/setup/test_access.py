"""Refusals that last are errors of access; others are outages."""

import psycopg
import pytest
from psycopg import errors

from projector.errors import AccessError
from projector.gitlab.setup.access import ADVICE, explained_access, in_one_line

DSN = "host=db user=projector dbname=gitlabhq"


@pytest.mark.parametrize(
    "message",
    [
        'FATAL:  password authentication failed for user "projector"',
        'FATAL:  role "projector" is not permitted to log in',
        "FATAL:  must be superuser or replication role to start walsender",
        'FATAL:  database "gitlabhq" does not exist',
    ],
)
def test_a_refusal_that_lasts_has_the_sentence_of_the_check(message: str) -> None:
    with pytest.raises(AccessError, match=f"refuses the bridge: .*{ADVICE}"), explained_access(DSN):
        raise psycopg.OperationalError(message)


@pytest.mark.parametrize(
    "message",
    [
        "Connection refused",
        "FATAL:  the database system is starting up",
        'FATAL:  too many connections for role "projector"',
        "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)",
    ],
)
def test_an_outage_stays_one(message: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"."), explained_access(DSN):
        raise psycopg.OperationalError(message)


def test_missing_rights_are_logged_with_an_advice_and_without_the_statement() -> None:
    found = in_one_line(errors.InsufficientPrivilege("permission denied\nLINE 1: SELECT secret"))
    assert str(found) == f"permission denied; {ADVICE}"
    assert str(in_one_line(psycopg.OperationalError("gone\nmore"))) == "gone"
