"""TLS failures that retrying cannot fix, and the causes that libraries wrap."""

import ssl
from collections.abc import Iterator
from typing import Final

from projector.config.env import variable_name

_HOSTNAME_MISMATCH: Final = (62, 64)  # OpenSSL: X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def tls_reason(error: ssl.SSLError, server: str, address: str) -> str | None:
    """Describe a lasting failure of TLS, as the end of a sentence; None if a retry may help.

    `server` is `kafka` or `redis`; `address` is the setting with the server's name.
    """
    # Errors that Python itself raises have neither attribute.
    reason = getattr(error, "reason", None) or ""
    message = getattr(error, "verify_message", "")
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _HOSTNAME_MISMATCH:
            return (
                f"shows a certificate for another name: {message} Use the certificate's name in "
                f"{address}, and in the address that the server advertises"
            )
        case ssl.SSLCertVerificationError():
            return (
                f"shows a certificate that is not trusted: {message}. Set "
                f"{variable_name(f'{server}_ca_file')} to the certificate of the CA that signed it"
            )
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        names = (variable_name(f"{server}_{each}_file") for each in ("certificate", "key"))
        return f"does not accept this client's certificate ({reason}). Set {' and '.join(names)}"
    if reason in _NO_TLS:
        return "does not speak TLS at this port, but the settings ask for it"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes: libraries wrap the error with the reason."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
