"""Job tokens signed as GitLab signs them, by a key made for this run."""

import time
import uuid
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.tokens.job_token_keys import thumbprint

ISSUER = "gitlab.example.com"


class SigningKey:
    """The key that GitLab keeps; `write_public_half` is what its administrator prints once."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def write_public_half(self, file: Path) -> None:
        public = self._key.public_key()
        file.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def token(self, job: int, valid_s: int = 24 * 3600) -> str:
        """Return a new token of the job, as its runner gets one."""
        now = int(time.time())
        claims = {
            "version": "0.1.0", "jti": str(uuid.uuid4()), "aud": "gitlab-authz-token",
            "sub": f"gid://gitlab/Ci::Build/{job}", "iss": ISSUER,
            "iat": now, "nbf": now - 5, "exp": now + valid_s,
        }  # fmt: skip
        named = {"kid": thumbprint(self._key.public_key())}
        return "glcbt-" + jwt.encode(claims, self._key, algorithm="RS256", headers=named)
