"""The token of a lookup request, and the age that it allows."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

Headers = Sequence[tuple[bytes, bytes]]

MAX_TOKEN_LENGTH: Final = 8192
VISIBLE_ASCII: Final = bytes(range(0x21, 0x7F))
_MAX_AGE: Final = re.compile(r"max-age\s*=\s*\"?(\d{1,10})", re.IGNORECASE)


class LookupRequest(NamedTuple):
    """`token` is None if it is missing or malformed; `max_age` is in seconds."""

    token: bytes | None
    max_age: int | None


def parse_request(headers: Headers, query: bytes) -> LookupRequest:
    """Read the bearer token, else the `job_token` parameter, else the `Job-Token` header.

    As GitLab does (lib/gitlab/auth/auth_finders.rb); empty ones do not count.
    """
    authorization = job_token = None
    controls = []
    for field, value in headers:
        name = field.lower()
        if name == b"job-token":
            job_token = value if job_token is None else job_token
        elif name == b"authorization":
            authorization = value if authorization is None else authorization
        elif name == b"cache-control":
            controls.append(value)
    token = (
        (_bearer(authorization) if authorization else b"")
        or (_parameter(query) if query else b"")
        or (job_token.strip() if job_token else b"")
    )
    max_age = _max_age(b",".join(controls)) if controls else None
    return LookupRequest(token if is_well_formed(token) else None, max_age)


def is_well_formed(token: bytes) -> bool:
    """Whether the token is 1 to 8192 visible ASCII characters, with any prefix."""
    return 0 < len(token) <= MAX_TOKEN_LENGTH and not token.translate(None, VISIBLE_ASCII)


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _parameter(query: bytes) -> bytes:
    pairs = parse_qsl(query.decode("latin-1"), encoding="latin-1")
    return next((v.encode("latin-1") for name, v in reversed(pairs) if name == "job_token"), b"")


def _max_age(control: bytes) -> int | None:
    """Return the allowed age, at least one second: the freshness stamps are no finer."""
    text = control.decode("latin-1").lower()
    if "no-cache" in text:
        return 1
    asked = [int(seconds) for seconds in _MAX_AGE.findall(text)]
    return max(1, min(asked)) if asked else None
