"""Reasons why Redis refuses this client or cannot be reached, and a server open to all."""

import os
import socket
import ssl
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from projector.clients.access_errors import causes, tls_reason
from projector.config.env import variable_name
from projector.config.settings import Settings

log = structlog.get_logger()


def redis_reason(error: BaseException | None) -> str | None:
    """Describe how Redis refuses this client, as the end of a sentence; None if it does not."""
    url = variable_name("redis_url")
    for cause in causes(error):
        match cause:
            case AuthenticationError() | AuthorizationError():
                username, password = map(variable_name, ("redis_username", "redis_password"))
                return (
                    f"does not know this user and password. Set {username} and {password}, "
                    f"or put them into {url}"
                )
            case NoPermissionError():
                return f"does not allow this user what is needed: {cause}. See docs/security.md"
            case MovedError() | ClusterCrossSlotError():
                return f"is part of a cluster. Let {url} begin with redis+cluster://"
            case ResponseError() if "DB index is out of range" in str(cause):
                return f"does not have this database. Let {url} end with a smaller number"
            case ResponseError() if "cluster support disabled" in str(cause):
                return f"is not a cluster. Let {url} begin with redis://"
            case ssl.SSLError():
                return tls_reason(cause, "redis", url)
    return None


async def warn_of_open_server(redis: Redis, settings: Settings) -> None:
    """Log a warning if a password is set, and Redis lets everyone in without one.

    Redis accepts any password then. A user of its own is not asked about: it may lack the right,
    and Redis would log that.
    """
    if not settings.has_password_alone:
        return
    # redis-py raises the others where a server's answer has other fields than that of Redis. It
    # must not end the worker, which needs this check for a warning alone.
    with suppress(ResponseError, KeyError, TypeError, AttributeError):
        user: Any = await redis.acl_getuser("default")
        if user and "nopass" in user["flags"]:
            log.warning("Redis needs no password", redis=settings.redis_place)


def redis_outage(error: BaseException) -> str:
    """Describe why Redis does not answer, in the system's words.

    A client's words have Python's own notation.
    """
    found = list(causes(error))
    if any(isinstance(each, TimeoutError | RedisTimeoutError) for each in found):
        return "no answer in time"
    return next(filter(None, map(_system_words, found)), None) or str(error)


def _system_words(error: BaseException) -> str | None:
    match error:
        case socket.gaierror(strerror=str(words)):  # Its negative number is not of `strerror`.
            return words[:1].lower() + words[1:]
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
    return None
