"""Kafka or Redis is there but does not let this product in: a person's to mend, and no outage."""

import ssl
from collections.abc import Iterator
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    ResponseError,
)

from projector.config.env import variable_name

_HOSTNAME_MISMATCH: Final = (62, 64)  # OpenSSL: X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def redis_reason(error: BaseException | None) -> str | None:
    """How Redis refuses this product, as the end of a sentence; None if it does not."""
    for cause in causes(error):
        match cause:
            case AuthenticationError() | AuthorizationError():
                return (
                    "does not know this user and password. Set "
                    f"{variable_name('redis_username')} and {variable_name('redis_password')}, or put them "
                    f"into {variable_name('redis_url')}"
                )
            case NoPermissionError():
                return f"does not allow this user what is needed: {cause}. See docs/security.md"
            case MovedError() | ClusterCrossSlotError():
                return f"is one of a cluster. Let {variable_name('redis_url')} begin with redis+cluster://"
            case ResponseError() if "cluster support disabled" in str(cause):
                return f"is no cluster. Let {variable_name('redis_url')} begin with redis://"
            case ssl.SSLError():
                return tls_reason(cause, "redis", variable_name("redis_url"))
    return None


def tls_reason(error: ssl.SSLError, server: str, address: str) -> str | None:
    """How TLS fails for good, as the end of a sentence; None where trying again may help.

    `server` is `kafka` or `redis`; `address` is the setting with the name that it goes by.
    """
    # Those that Python itself raises have neither.
    reason = getattr(error, "reason", None) or ""
    said = getattr(error, "verify_message", "")
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _HOSTNAME_MISMATCH:
            return (
                f"shows a certificate for another name: {said} {address} must name "
                "it as its certificate does, and so must the address that it advertises itself"
            )
        case ssl.SSLCertVerificationError():
            return (
                f"shows a certificate that is not trusted: {said}. "
                f"Set {variable_name(f'{server}_ca_file')} to the certificate of whoever signed it"
            )
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return (
            f"does not accept this client's certificate ({reason}). Set "
            f"{variable_name(f'{server}_certificate_file')} and {variable_name(f'{server}_key_file')}"
        )
    if reason in _NO_TLS:
        return "does not speak TLS at this port, but this client is told to"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: libraries wrap the one that tells."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
