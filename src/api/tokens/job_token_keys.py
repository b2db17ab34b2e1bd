"""The public keys that signed job tokens are checked with, read again when their files change."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import RSAAlgorithm

from api import metrics
from projector.config.env import variable_name
from projector.config.watched_files import WatchedFiles
from projector.errors import SettingsError

log = structlog.get_logger()

SETTING: Final = variable_name("job_token_keys")
# RS256 asks for this length (RFC 7518, section 3.3).
MIN_BITS: Final = 2048
# Larger than any key; a wrong path must not fill the memory.
MAX_FILE_BYTES: Final = 64 * 1024
_BEGIN: Final = re.compile(rb"-----BEGIN ([^-\r\n]*)-----")


class PublicKey(NamedTuple):
    """The public half of a signing key, and the file that it was read from."""

    file: Path
    rsa: RSAPublicKey


# By the RFC 7638 thumbprint: the `kid` of the tokens that the key has signed.
Keys = Mapping[str, PublicKey]
Contents = Sequence[bytes]


class KeyFiles(WatchedFiles[Contents, Keys]):
    """The keys in a few PEM files. A file that becomes unreadable is a `fault` until it is back.

    `keys` is another mapping as soon as the content of a file has changed. Raises `SettingsError`
    if a file is wrong at the start.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        super().__init__(SETTING)
        metrics.KEYS_UNREADABLE.set(0)

    @property
    def keys(self) -> Keys:
        """The keys, by the last content that was readable."""
        return self.value

    def _read(self) -> Contents:
        return _read(self._files)

    def _parse(self, content: Contents) -> Keys:
        return _parse(self._files, content)

    def _note_return(self) -> None:
        log.info("keys of job tokens readable again")
        metrics.KEYS_UNREADABLE.set(0)

    def _note_change(self) -> None:
        log.warning("keys of job tokens changed", kids=sorted(self.keys))

    def _note_fault(self, fault: str, *, is_new: bool) -> None:
        if is_new:
            log.error("keys of job tokens unreadable, signed tokens get 503", reason=fault)
        metrics.KEYS_UNREADABLE.set(1)


def _read(files: Sequence[Path]) -> Contents:
    return [_content(file) for file in files]


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES)
    except OSError as error:
        raise SettingsError(f"{SETTING}: {file}: {error.strerror}") from None


def _parse(files: Sequence[Path], contents: Contents) -> Keys:
    found = [
        PublicKey(file, _public_key(file, content))
        for file, content in zip(files, contents, strict=True)
    ]
    return {thumbprint(key.rsa): key for key in found}


def _public_key(file: Path, content: bytes) -> RSAPublicKey:
    """Return the one RSA key of a PEM file; the messages never quote the file."""
    labels = _BEGIN.findall(content)
    if not labels:
        raise _wrong(file, "it is not in PEM format; write the public key there as PEM")
    if any(b"PRIVATE" in label for label in labels):
        raise _wrong(file, "it holds a private key; only the public key belongs on this machine")
    if len(labels) > 1:
        raise _wrong(file, "it holds several keys; give each one its own file")
    try:
        key = load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _wrong(file, "it does not hold a public key that can be read") from None
    if not isinstance(key, RSAPublicKey):
        raise _wrong(file, "it does not hold an RSA key; GitLab signs job tokens with RSA")
    if key.key_size < MIN_BITS:
        raise _wrong(file, f"its key has {key.key_size} bits; {MIN_BITS} is the least")
    return key


def _wrong(file: Path, what: str) -> SettingsError:
    return SettingsError(f"{SETTING}: {file}: {what}")


def thumbprint(key: RSAPublicKey) -> str:
    """Return the RFC 7638 thumbprint of a key."""
    jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    members = {name: jwk[name] for name in ("e", "kty", "n")}
    digest = hashlib.sha256(orjson.dumps(members)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
