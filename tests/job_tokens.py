"""Signed job tokens as GitLab makes them, by keys that open nothing."""

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.tokens.job_token_keys import thumbprint

ISSUER: Final = "gitlab.example.com"
NOW_S: Final = 1_800_000_000
JOB: Final = 9
# Made by the Ruby libraries that GitLab uses.
VECTOR: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "signed-job-token.json").read_text()
)


class SigningKey(NamedTuple):
    """A key pair, as GitLab has one."""

    private: rsa.RSAPrivateKey

    @property
    def pem(self) -> bytes:
        """The public half, as an administrator prints it for the API."""
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def kid(self) -> str:
        return thumbprint(self.private.public_key())

    def token(
        self, job: int = JOB, *, kid: str | None = "", headers: dict[str, Any] | None = None,
        algorithm: str = "RS256", without: str = "", **claims: Any,
    ) -> str:  # fmt: skip
        """A token of this job, with other claims, headers or a `kid`; None leaves that out."""
        payload = claims_of(job) | claims
        payload.pop(without, None)
        named: dict[str, Any] = {} if kid is None else {"kid": kid or self.kid}
        return "glcbt-" + jwt.encode(
            payload, self.private, algorithm=algorithm, headers=named | (headers or {})
        )

    def signed_bytes(self, payload: bytes) -> str:
        """A token with this payload, which need not be JSON."""
        head = {"kid": self.kid}
        return "glcbt-" + jwt.PyJWS().encode(payload, self.private, "RS256", head)

    def signed_parts(self, header: bytes, payload: bytes) -> str:
        """A token with this header and payload, neither of which need be JSON."""
        text = f"{segment(header)}.{segment(payload)}"
        signature = self.private.sign(text.encode(), padding.PKCS1v15(), SHA256())
        return f"glcbt-{text}.{segment(signature)}"


def claims_of(job: int = JOB, now_s: int = NOW_S) -> dict[str, Any]:
    """The claims that GitLab gives a token of this job, which was handed out a minute ago."""
    issued = now_s - 60
    return {
        "version": "0.1.0", "o": "1", "u": "25", "p": "p1", "g": "p3",
        "jti": "cf09b0d4-0d05-49c2-ba81-4e2aafa1fb1f",
        "aud": "gitlab-authz-token", "sub": f"gid://gitlab/Ci::Build/{job}", "iss": ISSUER,
        "iat": issued, "nbf": issued - 5, "exp": issued + 3900,
    }  # fmt: skip


@cache
def signing_key(number: int = 0, bits: int = 2048) -> SigningKey:
    """One of a few key pairs; making one takes a while."""
    return SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=bits))


def segment(content: object) -> str:
    """One part of a JWT: JSON, or bytes as they are, in base64url."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
