"""The decision about a signed token, made a second time, from docs/security.md alone.

It shares no code with the product: `cryptography` checks the signature, `json` reads the rest.
"""

import base64
import json
import math
import string
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

# The outcomes: looked up by its digest alone, 401, 503; or else the job's id.
BY_DIGEST: Final = "by digest"
REFUSED: Final = "401"
IN_DOUBT: Final = "503"
Outcome = str | int
ALPHABET: Final = frozenset((string.ascii_letters + string.digits + "-_").encode())
VISIBLE: Final = frozenset(range(0x21, 0x7F))
SUBJECT: Final = "gid://gitlab/Ci::Build/"


class NotStrictError(Exception):
    """JSON that parsers read differently: NaN, repeated names, odd texts, or deep nesting."""


class Oracle(NamedTuple):
    """The settings of the API, and the time in ms."""

    keys: Mapping[str, RSAPublicKey]
    issuer: str
    now_ms: float

    def outcomes(self, token: bytes) -> set[Outcome]:
        """Return the right outcomes: one, or two where JSON parsers may differ."""
        parts = self._parts(token)
        if parts is None:
            return {BY_DIGEST}
        try:
            head, payload, signature = map(decoded, parts)
        except ValueError:
            # A header that names an unknown key is in doubt, whatever else is wrong.
            return {REFUSED, IN_DOUBT}
        return self._of_parts(head, payload, signature, b".".join(parts[:2]))

    def _parts(self, token: bytes) -> list[bytes] | None:
        """Return the JWT after the last `glcbt-` of its header; before it may be any prefix."""
        start, *others = token.rsplit(b".", 2)
        prefix, name, head = start.rpartition(b"glcbt-")
        if not name or len(prefix) > 101 or not VISIBLE.issuperset(prefix):
            return None
        parts = [head, *others]
        if len(parts) == 3 and parts[0] and parts[1] and ALPHABET.issuperset(b"".join(parts)):
            return parts
        return None

    def _of_parts(self, head: bytes, payload: bytes, signature: bytes, text: bytes) -> set[Outcome]:
        try:
            header = strictly(head)
        except NotStrictError:
            # Nobody but a holder of a key makes a header that is signed and odd.
            signed = any(is_signed(key, signature, text) for key in self.keys.values())
            return {REFUSED, IN_DOUBT} | (self._of_claims(payload) if signed else set())
        except ValueError:
            return {REFUSED}
        if not isinstance(header, dict) or header.get("alg") != "RS256":
            return {REFUSED}
        kid = header.get("kid")
        if not isinstance(kid, str):
            return {REFUSED}
        if kid not in self.keys:
            return {IN_DOUBT}
        if "crit" in header or header.get("b64", True) is False:
            # "crit" may list "b64" where that changes nothing (RFC 7797).
            signed = is_signed(self.keys[kid], signature, text)
            return {REFUSED} | (self._of_claims(payload) if signed else set())
        if not is_signed(self.keys[kid], signature, text):
            return {REFUSED}
        return self._of_claims(payload)

    def _of_claims(self, payload: bytes) -> set[Outcome]:
        try:
            return {self._of_object(strictly(payload))}
        except NotStrictError:
            with_text = payload.decode(errors="replace")
            try:
                return {REFUSED, self._of_object(json.loads(with_text))}
            except (ValueError, RecursionError):
                return {REFUSED}
        except ValueError:
            return {REFUSED}

    def _of_object(self, claims: Any) -> Outcome:
        if not isinstance(claims, dict):
            return REFUSED
        if (claims.get("aud"), claims.get("iss")) != ("gitlab-authz-token", self.issuer):
            return REFUSED
        job = job_in(claims.get("sub"))
        after, before = seconds(claims.get("nbf")), seconds(claims.get("exp"))
        if job is None or after is None or before is None:
            return REFUSED
        return job if (after - 60) * 1000 <= self.now_ms < before * 1000 else REFUSED


def decoded(part: bytes) -> bytes:
    """Decode base64url; raises `ValueError` where another text has the same bytes."""
    raw = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part:
        raise ValueError("not canonical")
    return raw


def strictly(text: bytes) -> Any:
    """Read JSON; raises `NotStrictError` or `ValueError`."""

    def constant(_: str) -> None:
        raise NotStrictError

    def checked(members: list[tuple[str, Any]]) -> dict[str, Any]:
        # Here are the values too that a later member of the same name replaces.
        json.dumps(members, ensure_ascii=False).encode()
        if len({name for name, _ in members}) < len(members):
            raise NotStrictError  # a reader may look at the first as well (RFC 8259, section 4)
        return dict(members)

    try:
        read = json.loads(text.decode(), parse_constant=constant, object_pairs_hook=checked)
        json.dumps(read, ensure_ascii=False).encode()
    except (UnicodeError, RecursionError):
        raise NotStrictError from None
    return read


def is_signed(key: RSAPublicKey, signature: bytes, text: bytes) -> bool:
    """Whether the key has signed these very bytes."""
    try:
        key.verify(signature, text, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def job_in(subject: object) -> int | None:
    """Return the job's id, or None."""
    if not isinstance(subject, str) or not subject.startswith(SUBJECT):
        return None
    number = subject.removeprefix(SUBJECT)
    if not number or set(number) - set("0123456789") or number[0] == "0" or len(number) > 19:
        return None
    return int(number) if int(number) < 2**63 else None


def seconds(value: object) -> float | None:
    """Return a number that is finite, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
