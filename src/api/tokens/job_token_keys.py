"""The public keys that signed job tokens are checked with, read again when their files change."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import RSAAlgorithm

from api import metrics
from projector.config.env import variable_name
from projector.errors import SettingsError

log = structlog.get_logger()

SETTING: Final = variable_name("job_token_keys")
WATCH_INTERVAL_S: Final = 1.0
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


class KeyFiles:
    """The keys in a few PEM files. A file that becomes unreadable is a `fault` until it is back.

    `keys` is another mapping as soon as the content of a file has changed. Raises `SettingsError`
    if a file is wrong at the start.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._contents = _read(files)
        self.keys: Keys = _parse(files, self._contents)
        self.fault: str | None = None
        metrics.KEYS_UNREADABLE.set(0)

    async def watch(self) -> NoReturn:
        """Read the files again every second, off the event loop."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the files again, and take over what has changed."""
        try:
            self._take(*await asyncio.to_thread(self._load))
        except SettingsError as error:
            self._fail(str(error))
        except Exception as error:  # without the files' content no token may be accepted
            # The error's text may quote the file.
            self._fail(f"{SETTING}: {type(error).__name__}")

    def _load(self) -> tuple[Contents, Keys]:
        # The content is compared, not its time: a replaced symbolic link may lead to an older file.
        contents = _read(self._files)
        unchanged = contents == self._contents
        return contents, self.keys if unchanged else _parse(self._files, contents)

    def _take(self, contents: Contents, keys: Keys) -> None:
        if self.fault:
            log.info("keys of job tokens readable again")
            metrics.KEYS_UNREADABLE.set(0)
        if keys is not self.keys:
            log.warning("keys of job tokens changed", kids=sorted(keys))
        self._contents, self.keys, self.fault = contents, keys, None

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            log.error("keys of job tokens unreadable, signed tokens get 503", reason=fault)
        metrics.KEYS_UNREADABLE.set(1)
        self.fault = fault


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
