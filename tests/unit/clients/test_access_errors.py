"""Failures that retrying cannot fix, as sentences."""

import ssl

import pytest
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from projector.clients import access_errors, redis_access


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            AuthenticationError("no"),
            "Set PROJECTOR_REDIS_USERNAME and PROJECTOR_REDIS_PASSWORD, or",
        ),
        (NoPermissionError("no SET"), "does not allow this user what is needed: no SET."),
        (MovedError("1 h:1"), "Let PROJECTOR_REDIS_URL begin with redis+cluster://"),
        (
            ResponseError("This instance has cluster support disabled"),
            "is not a cluster. Let PROJECTOR_REDIS_URL begin with redis://",
        ),
        (
            ResponseError("DB index is out of range"),
            "does not have this database. Let PROJECTOR_REDIS_URL end with a smaller number",
        ),
        (ConnectionError("away"), None),
        (ResponseError("LOADING"), None),
    ],
    ids=repr,
)
def test_a_refusal_names_the_setting_and_an_outage_is_none(
    error: RedisError, says: str | None
) -> None:
    """Libraries wrap the error with the reason."""
    wrapped = ConnectionError("cannot connect")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        reason = redis_access.redis_reason(each)
        assert reason is None if says is None else says in str(reason)


def test_a_tls_error_of_python_itself_has_no_reason_and_breaks_nothing() -> None:
    assert (
        access_errors.tls_reason(ssl.SSLError("the peer went away"), "redis", "PROJECTOR_X") is None
    )
    untrusted = ssl.SSLCertVerificationError("no certificate")
    assert "not trusted" in str(access_errors.tls_reason(untrusted, "redis", "PROJECTOR_X"))
