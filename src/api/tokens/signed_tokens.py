"""Job tokens that GitLab signs: their form, their signature and their claims.

A token is `glcbt-<JWT>`, with the instance's prefix or without it. Nothing in a token leads to a
key but the `kid` of one that is configured.
"""

import base64
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import jwt
import msgspec

from api import metrics
from api.tokens.job_token_keys import KeyFiles, Keys, PublicKey
from api.tokens.refusal_log import RefusalLog
from projector.store import schema

AUDIENCE: Final = "gitlab-authz-token"
ALGORITHM: Final = "RS256"
# GitLab's `nbf` is 5 s before `iat`. This allows for its clock.
NBF_LEEWAY_S: Final = 60
MAX_JOB: Final = 2**63 - 1
# Some 30 MB. Beyond it the token that was verified first is verified again when it comes.
MAX_KNOWN: Final = 100_000

_NAME: Final = "glcbt-"
# The signature may be missing (`alg: none`): that is a JWT too, and is refused as one.
_JWT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# As long as the setting may be, and a dash.
_ANY_PREFIX: Final = re.compile(rb"[\x21-\x7e]{0,101}")
_SUBJECT: Final = re.compile(r"gid://gitlab/Ci::Build/([1-9][0-9]{0,18})")
_JWS: Final = jwt.PyJWS(algorithms=[ALGORITHM])

# Returns the believed TIME of Redis in ms at a time of `elapsed`, or None.
Clock = Callable[[float], float | None]


class RefusedTokenError(Exception):
    """The token is certainly not valid. The message is the `result` of the metric."""


class UnverifiableTokenError(Exception):
    """The token may be valid. `result` is that of the metric, the message is for the client."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


class KnownToken(NamedTuple):
    """A verified token: the key of its job in Redis, and its `exp` in ms.

    `alone`: the job's key held the record itself, so the token has no record of its own.
    """

    job_key: str
    expires_ms: float
    alone: bool = False


class _Header(msgspec.Struct):
    alg: object = None
    kid: object = None


class _Claims(msgspec.Struct):
    sub: object
    iss: object
    aud: object
    exp: float
    nbf: float


_decode_header: Final = msgspec.json.Decoder(_Header).decode
_decode_claims: Final = msgspec.json.Decoder(_Claims).decode


class SignedTokens:
    """Verifies signed tokens, each once: verified ones are kept by the key of their record."""

    def __init__(
        self, files: KeyFiles, issuer: str, prefix: str, clock: Clock,
        refusals: RefusalLog | None = None,
    ) -> None:  # fmt: skip
        self._files = files
        self._issuer = issuer
        self._clock = clock
        self._refusals = refusals
        # GitLab puts its instance prefix before the name, newer versions with a dash between.
        names = [f"{before}{_NAME}" for before in ("", prefix, f"{prefix}-")] if prefix else []
        self._names = tuple(name.encode() for name in names)
        self._keys: Keys = {}
        # Verified tokens alone: forged ones cannot push them out.
        self._known: OrderedDict[str, KnownToken] = OrderedDict()

    def known(self, key: str, now: float) -> KnownToken | None:
        """Return the token with this key of its own, if it was verified and is still valid."""
        files = self._files
        if files.keys is not self._keys:
            self._keys = files.keys
            self._known.clear()
        known = self._known.get(key)
        # Inline, for nearly all lookups end here.
        if known is not None and files.fault is None:
            time_ms = self._clock(now)
            if time_ms is not None and time_ms < known.expires_ms:
                metrics.signed["known"] += 1
                return known
        return None

    def verify(self, token: bytes, key: str, now: float) -> KnownToken:
        """Return the verified token; `key` is that of its own record.

        Raises `RefusedTokenError` or `UnverifiableTokenError`.
        """
        # Another lookup may have verified it meanwhile.
        return self.known(key, now) or self._check(token, key, now)

    def _check(self, token: bytes, key: str, now: float) -> KnownToken:
        """Verify a token that is not known, or is known and may have expired."""
        self._known.pop(key, None)
        try:
            known = self._verified(token, now)
        except RefusedTokenError as error:
            metrics.signed[str(error)] += 1
            raise
        except UnverifiableTokenError as error:
            metrics.signed[error.result] += 1
            raise
        self._known[key] = known
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        metrics.signed["verified"] += 1
        return known

    def note_alone(self, key: str, *, alone: bool) -> None:
        """Note whether the token's job has its record under its own key."""
        known = self._known.get(key)
        if known and known.alone != alone:
            self._known[key] = known._replace(alone=alone)

    def _verified(self, token: bytes, now: float) -> KnownToken:
        if self._files.fault:
            raise UnverifiableTokenError(
                "keys unreadable", "the keys of signed job tokens cannot be read"
            )
        claims = self._claims(token)
        job = self._job(claims)
        time_ms = self._clock(now)
        if time_ms is None:
            raise UnverifiableTokenError("no clock", "the time of Redis is not known yet")
        if time_ms < (claims.nbf - NBF_LEEWAY_S) * 1000:
            raise RefusedTokenError("not yet valid")
        if time_ms >= claims.exp * 1000:
            raise RefusedTokenError("expired")
        return KnownToken(schema.job_key(job), claims.exp * 1000)

    def jwt_of(self, token: bytes) -> re.Match[bytes] | None:
        """Return the JWT of a token in one of the forms of a signed one, or None."""
        if not self._names:
            return _after_any_prefix(token)
        for name in self._names:
            if token.startswith(name) and (found := _JWT.fullmatch(token, len(name))):
                return found
        return None

    def _claims(self, token: bytes) -> _Claims:
        """Return the claims of a token that a configured key has signed."""
        signed = self.jwt_of(token)
        if signed is None:
            raise RefusedTokenError("malformed")
        key = self._key(signed[1])
        try:
            verified = _JWS.decode_complete(signed[0], key.rsa, algorithms=[ALGORITHM])
        except jwt.InvalidSignatureError:
            raise RefusedTokenError("bad signature") from None
        except jwt.InvalidTokenError:
            raise RefusedTokenError("malformed") from None
        try:
            return _decode_claims(verified["payload"])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise self._refused("malformed claims", None, "GitLab's claims") from None

    def _key(self, segment: bytes) -> PublicKey:
        """Return the key that the header names by `kid`; other headers name none."""
        try:
            padded = segment + b"=" * (-len(segment) % 4)
            header = _decode_header(base64.urlsafe_b64decode(padded))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise RefusedTokenError("malformed") from None
        if header.alg != ALGORITHM:
            raise RefusedTokenError("wrong algorithm")
        if not isinstance(header.kid, str):
            raise RefusedTokenError("no key id")
        key = self._keys.get(header.kid)
        if key is None:
            if self._refusals:
                self._refusals.unknown_key(header.kid, self._keys)
            raise UnverifiableTokenError(
                "unknown key", "the job token is signed with a key that is not configured here"
            )
        return key

    def _job(self, claims: _Claims) -> int:
        if claims.aud != AUDIENCE:
            raise self._refused("wrong audience", claims.aud, AUDIENCE)
        if claims.iss != self._issuer:
            raise self._refused("wrong issuer", claims.iss, self._issuer)
        job = job_of(claims.sub)
        if job is None:
            raise self._refused("malformed subject", claims.sub, "gid://gitlab/Ci::Build/<id>")
        return job

    def _refused(self, result: str, found: object, expected: str) -> RefusedTokenError:
        """Build the error for a claim that a configured key has signed, and report it."""
        if self._refusals:
            self._refusals.wrong_claim(result, found, expected)
        return RefusedTokenError(result)


def _after_any_prefix(token: bytes) -> re.Match[bytes] | None:
    """Return the JWT after any prefix: the signature decides.

    A prefix may hold dots or the name itself, and a JWT's header as GitLab writes it does not.
    """
    name = token.rfind(_NAME.encode(), 0, token.rfind(b".", 0, token.rfind(b".")))
    if name < 0 or not _ANY_PREFIX.fullmatch(token, 0, name):
        return None
    return _JWT.fullmatch(token, name + len(_NAME))


def job_of(subject: object) -> int | None:
    """Return the job's id from `gid://gitlab/Ci::Build/9`, or None."""
    found = _SUBJECT.fullmatch(subject) if isinstance(subject, str) else None
    job = int(found[1]) if found else 0
    return job if 0 < job <= MAX_JOB else None
