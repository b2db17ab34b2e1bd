"""The digests of job tokens that GitLab's database has encrypted.

GitLab's key opens all that GitLab encrypts. A child process alone holds it: it reads ciphertexts
and writes digests, in batches, and ends with the bridge.

Source: `Authn::TokenField::EncryptionHelper` and `Gitlab::CryptoHelper` of GitLab.
"""

import base64
import binascii
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from projector.errors import TokenKeyError

log = structlog.get_logger()

_KEY_BYTES: Final = 32
_NONCE: Final = 12
_DYNAMIC: Final = "|"
# A token takes some 80 characters. Longer ones would be garbage that fills the pipe.
_LONGEST: Final = 1000
_READY: Final = "ready\n"


class TokenDigests:
    """A child process that decrypts tokens; threads may share it."""

    def __init__(self, key_file: Path) -> None:
        """Start the child; raises `TokenKeyError` where the key cannot be used."""
        self.undecipherable = 0
        self._key_file = key_file
        self._lock = threading.Lock()
        self._child = self._start()

    def digests(self, encrypted: list[str]) -> list[str | None]:
        """Return the SHA-256 of each token in hex, or None for what the key does not open."""
        if not encrypted:
            return []
        with self._lock:
            found = self._ask([text if len(text) <= _LONGEST else "" for text in encrypted])
        if failed := found.count(None):
            self.undecipherable += failed
            log.warning("tokens-undecipherable", count=failed)
        return found

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._child.terminate()
            self._child.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> "subprocess.Popen[str]":
        try:
            child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", __name__, str(self._key_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
        except OSError as error:
            raise TokenKeyError(
                f"the process that decrypts tokens cannot start: {error.strerror}"
            ) from error
        if (first := _pipe(child.stdout).readline()) != _READY:
            child.communicate()
            raise TokenKeyError(first.strip() or "the process that decrypts tokens cannot start")
        return child

    def _ask(self, encrypted: list[str]) -> list[str | None]:
        """Ask the child, and once more a new one if that has died."""
        line = json.dumps(encrypted) + "\n"
        try:
            return _exchange(self._child, line)
        except (OSError, EOFError):
            log.warning("token-process-died", status=self._child.poll())
            self._child.kill()
            self._child.communicate()
            self._child = self._start()
        try:
            return _exchange(self._child, line)
        except (OSError, EOFError):
            raise TokenKeyError(
                "the process that decrypts tokens died, and the one after it too (status "
                f"{self._child.poll()}): find out who ends it, perhaps the system for want of "
                "memory, and start this command again"
            ) from None


def _exchange(child: "subprocess.Popen[str]", line: str) -> list[str | None]:
    questions = _pipe(child.stdin)
    questions.write(line)
    questions.flush()
    answer = _pipe(child.stdout).readline()
    # A child that is killed may leave half a line.
    if not answer.endswith("\n"):
        raise EOFError
    found: list[str | None] = json.loads(answer)
    return found


def _pipe(end: IO[str] | None) -> IO[str]:
    if end is None:
        raise EOFError
    return end


class Key:
    """The key of GitLab's encrypted tokens."""

    def __init__(self, db_key_base: str) -> None:
        self._cipher = AESGCM(_sized(db_key_base, _KEY_BYTES))
        self._static_nonce = _sized(db_key_base, _NONCE)

    def digest(self, encrypted: str) -> str | None:
        """Return the digest of a token, or None for what the key does not open."""
        nonce, body = self._static_nonce, encrypted
        if encrypted.startswith(_DYNAMIC) and len(encrypted) > _NONCE + len(_DYNAMIC):
            nonce, body = encrypted[-_NONCE:].encode(), encrypted[len(_DYNAMIC) : -_NONCE]
        try:
            # Ruby's decoder ignores other characters, and needs no padding.
            token = self._cipher.decrypt(nonce, base64.b64decode(body + "=="), None)
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return hashlib.sha256(token).hexdigest()


def _sized(text: str, size: int) -> bytes:
    """Return the whole characters that fit into so many bytes, filled up with zeros."""
    return text.encode()[:size].decode(errors="ignore").encode().ljust(size, b"0")


def others_may_use(file: os.stat_result, user: int) -> bool:
    """Whether more than its owner may read or write a file, for a process of `user`.

    A group may read a file of root: Kubernetes gives a Secret's file to root, and to the group of
    the pod alone.
    """
    allowed = stat.S_IRGRP if file.st_uid == 0 and user != 0 else 0
    return bool(file.st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~allowed)


def read_key(path: Path) -> Key:
    """Read the key from a file that no other user can read; raises `TokenKeyError`."""
    try:
        with path.open("rb") as file:
            exposed = others_may_use(os.fstat(file.fileno()), os.geteuid())
            content = file.read(_KEY_BYTES * 32).rstrip(b"\r\n")
    except OSError as error:
        raise TokenKeyError(f"PROJECTOR_GITLAB_DB_KEY_FILE: {path}: {error.strerror}") from None
    if exposed:
        raise TokenKeyError(
            f"PROJECTOR_GITLAB_DB_KEY_FILE: others than its owner can read or write {path}; "
            f"run: chmod 400 {path}"
        )
    if not content:
        raise TokenKeyError(
            f"PROJECTOR_GITLAB_DB_KEY_FILE: {path} is empty; it must hold the first "
            f"{_KEY_BYTES} bytes of GitLab's db_key_base"
        )
    try:
        return Key(content.decode())
    except UnicodeDecodeError:
        raise TokenKeyError(f"PROJECTOR_GITLAB_DB_KEY_FILE: {path} is not text") from None


def main(path: str) -> None:
    """Answer on stdout for each line of ciphertexts on stdin, until that ends."""
    # Ctrl-C on a terminal reaches the child too, and the bridge may still need it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        key = read_key(Path(path))
    except TokenKeyError as error:
        sys.stdout.write(f"{error}\n")
        return
    sys.stdout.write(_READY)
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps([key.digest(text) for text in json.loads(line)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
