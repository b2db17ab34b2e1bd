"""Job tokens as GitLab keeps them in its database: random texts, encrypted by AES-256-GCM."""

import base64
import random
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DB_KEY_BASE: Final = "5f" * 64  # opens nothing
ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789_-"


class DatabaseTokens:
    """Makes tokens, and encrypts them with nonces of both kinds that GitLab has used."""

    def __init__(self, dice: random.Random, db_key_base: str = DB_KEY_BASE) -> None:
        self._random = dice
        self.key = db_key_base[:32].ljust(32, "0").encode()

    def new(self, partition: int) -> str:
        """Return a token of a job in this partition."""
        return f"glcbt-{partition:x}_{''.join(self._random.choices(ALPHABET, k=20))}"

    def encrypt(self, token: str) -> str:
        """Return the token as `p_ci_builds.token_encrypted` has it, of today or of old."""
        return self.of_today(token) if self._random.random() < 0.8 else self.of_old(token)

    def of_today(self, token: str) -> str:
        """Encrypt with a nonce made of the token, which follows the ciphertext."""
        nonce = sha256(token.encode()).hexdigest()[:12]
        return f"|{self._encrypt(token, nonce.encode())}{nonce}"

    def of_old(self, token: str) -> str:
        """Encrypt with a nonce made of the key."""
        return self._encrypt(token, self.key[:12])

    def _encrypt(self, token: str, nonce: bytes) -> str:
        return base64.b64encode(AESGCM(self.key).encrypt(nonce, token.encode(), b"")).decode()
