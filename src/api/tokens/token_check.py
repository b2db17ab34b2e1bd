"""A job token checked as lookups check it, for operators."""

import math
from typing import Final, NamedTuple

import jwt

from api.tokens.job_token_keys import KeyFiles
from api.tokens.signed_tokens import RefusedTokenError, SignedTokens, UnverifiableTokenError, job_of
from projector.config.settings import Settings
from projector.elapsed import elapsed

VERIFIED: Final = "verified"
NOT_CHECKED: Final = "no keys"


class TokenCheck(NamedTuple):
    """A signed token: the `result` of the check, and what the token itself names.

    `result` is `verified`, `no keys` if none are configured here, or that of the metric
    `projector_api_signed_tokens_total`. `in_doubt`: lookups get 503, not 401. `expires_s` is in
    seconds since 1970. Unless it is verified, anyone may have written the rest: what cannot be
    shown is None.
    """

    result: str
    in_doubt: bool
    job: int | None
    kid: str | None
    issuer: str | None
    expires_s: float | None


def check_token(token: bytes, settings: Settings, now_ms: float) -> TokenCheck | None:
    """Check a token; None if it is not a signed one, so that lookups know it by its digest alone.

    Raises `SettingsError` if a key file cannot be used.
    """
    tokens = SignedTokens(
        KeyFiles(settings.job_token_key_files), settings.job_token_issuer or "",
        settings.job_token_prefix, lambda _: now_ms,
    )  # fmt: skip
    signed = tokens.jwt_of(token)
    if signed is None:
        return None
    result, in_doubt = NOT_CHECKED, False
    if settings.job_token_key_files:
        result, in_doubt = _result(tokens, token)
    return _named(signed[0], result, in_doubt=in_doubt)


def _result(tokens: SignedTokens, token: bytes) -> tuple[str, bool]:
    try:
        tokens.verify(token, "", elapsed())
    except RefusedTokenError as error:
        return str(error), False
    except UnverifiableTokenError as error:
        return error.result, True
    return VERIFIED, False


def _named(signed: bytes, result: str, *, in_doubt: bool) -> TokenCheck:
    try:
        read = jwt.decode_complete(signed, options={"verify_signature": False})
    except (jwt.InvalidTokenError, RecursionError):
        return TokenCheck(result, in_doubt, None, None, None, None)
    claims, header = read["payload"], read["header"]
    return TokenCheck(
        result,
        in_doubt,
        job_of(claims.get("sub")),
        _text(header.get("kid")),
        _text(claims.get("iss")),
        _seconds(claims.get("exp")),
    )


def _text(value: object) -> str | None:
    """Return a text without control characters and lone surrogates, or None."""
    return value if isinstance(value, str) and value.isprintable() else None


def _seconds(value: object) -> float | None:
    """Return a number of seconds that is finite in milliseconds too, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds * 1000) else None
