"""Failures that retrying cannot fix, as sentences."""

import socket
import ssl
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from projector.clients import access_errors, redis_access
from projector.config.settings import Settings


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


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(111, "Connect call failed ('127.0.0.1', 6379)"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (RedisTimeoutError("Timeout reading from 127.0.0.1:6379"), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (ConnectionError("the sentinels do not name a primary"), "the sentinels do not name"),
    ],
    ids=repr,
)
def test_an_outage_is_written_in_the_system_s_words(error: Exception, says: str) -> None:
    wrapped = ConnectionError(f"Error 111 connecting: {error}")
    wrapped.__cause__ = error
    assert redis_access.redis_outage(error).startswith(says)
    if not isinstance(error, ConnectionError):
        assert redis_access.redis_outage(wrapped) == says


@pytest.mark.parametrize("answer", [b"OK", [b"flags", [b"nopass"]], [b"flags", None]])
async def test_an_answer_about_users_that_is_not_redis_ends_nothing(answer: object) -> None:
    """A server that only speaks the protocol; the library's own parser reads its answer."""

    class OtherServer(Redis):
        async def execute_command(self, *_arguments: Any, **_options: Any) -> Any:
            return self.response_callbacks["ACL GETUSER"](answer)

    settings = Settings(redis_url="redis://:secret@127.0.0.1:1/0")
    await redis_access.warn_of_open_server(OtherServer(), settings)
