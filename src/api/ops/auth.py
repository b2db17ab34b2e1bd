"""Access to the operators' data: by token, or from loopback. Fails closed."""

import hmac
import ipaddress
import socket
import time
from collections import OrderedDict, deque
from typing import Final

import structlog
from starlette.requests import Request

log = structlog.get_logger()

# At most this many wrong tokens in the window from one address, against guessing.
MAX_FAILURES: Final = 10
WINDOW_S: Final = 60.0
# Bounds the memory of the counts; the oldest is dropped.
MAX_CLIENTS: Final = 1000
_SITES: Final = ("none", "same-origin")
_PROXIES: Final = ("forwarded", "x-forwarded-for", "via")


class AccessRefusedError(Exception):
    """The HTTP status and the sentence with which a request is refused."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class TokenAccess:
    """Accepts requests that carry the token as `Authorization: Bearer`."""

    token_needed: Final = True

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._failures = Failures()

    def check(self, request: Request) -> None:
        """Raise `AccessRefusedError` unless the request carries the token."""
        client = _network(request.client.host if request.client else "")
        if self._failures.are_too_many(client):
            raise AccessRefusedError(
                429, "too many wrong tokens came from your address; wait a minute"
            )
        scheme, _, given = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise AccessRefusedError(401, "the operators' token is needed")
        if not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            self._failures.add(client)
            log.warning("a wrong token for the operators' page", client=client)
            raise AccessRefusedError(401, "this is not the operators' token")


class LoopbackAccess:
    """Accepts requests from this machine without a token.

    Refuses requests that another site makes through a local browser, and host names of another
    site that resolve to this machine (DNS rebinding).
    """

    token_needed: Final = False

    def check(self, request: Request) -> None:
        """Raise `AccessRefusedError` unless the request names and reached a loopback address."""
        address, _ = request.scope.get("server") or ("", None)
        if not _names_this_machine(address):
            raise AccessRefusedError(403, "without a token only a loopback address is served")
        if not _names_this_machine(request.url.hostname or ""):
            raise AccessRefusedError(403, "use 127.0.0.1 or localhost in the address")
        if any(name in request.headers for name in _PROXIES):
            raise AccessRefusedError(403, "behind a proxy a token is needed")
        if request.headers.get("sec-fetch-site", "none") not in _SITES:
            raise AccessRefusedError(403, "another site asked for this")


class Failures:
    """Counts wrong tokens by client, so that no client can try many."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, client: str) -> None:
        """Count a wrong token."""
        times = self._failures.setdefault(client, deque(maxlen=MAX_FAILURES))
        times.append(time.monotonic())
        self._failures.move_to_end(client)
        if len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)

    def are_too_many(self, client: str) -> bool:
        """Whether the client has used all its tries of this minute."""
        times = self._failures.get(client) or deque[float]()
        return len(times) >= MAX_FAILURES and time.monotonic() - times[0] < WINDOW_S


def is_loopback(host: str) -> bool:
    """Whether every address of the host is a loopback address."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host or "0.0.0.0", None)}  # noqa: S104
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address).is_loopback for address in found)


def _names_this_machine(host: str) -> bool:
    """Decide by the name alone: its addresses may change between two requests."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _network(host: str) -> str:
    """Return the client's IPv4 address or IPv6 network, of which one machine may use every address.

    Behind a proxy that is not trusted it is the proxy's.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
