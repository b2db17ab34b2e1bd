"""Passwords and certificates from files; errors name the setting of the file."""

import ssl
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, SecretStr

from projector.config.env import variable_name

# Larger than any password; a wrong path must not fill the memory.
MAX_SECRET_BYTES: Final = 64 * 1024


def _named(path: object) -> object:
    """Refuse an empty name, which would be the folder here."""
    if path == "":
        raise ValueError("is empty; give a file, or leave the variable unset")
    return path


def _readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


NamedPath = Annotated[Path, BeforeValidator(_named)]
File = Annotated[NamedPath, AfterValidator(_readable)]


class Identity(NamedTuple):
    """The certificate files for one server; `server` is the prefix of their settings."""

    server: str
    authority: Path | None
    certificate: Path | None
    key: Path | None


def tls(files: Identity) -> ssl.SSLContext:
    """Create a TLS context that checks certificates and host names.

    It trusts the CA file alone, or the system's CAs without one. Raises `ValueError` with the name
    of the setting whose file is wrong.
    """
    try:
        context = ssl.create_default_context(cafile=files.authority)
    except ssl.SSLError:
        name = variable_name(f"{files.server}_ca_file")
        raise ValueError(
            f"{name}: {files.authority} does not hold a certificate in PEM format"
        ) from None
    if files.certificate:
        _present(context, files)
    return context


def _present(context: ssl.SSLContext, files: Identity) -> None:
    assert files.certificate is not None  # noqa: S101
    names = [variable_name(f"{files.server}_{which}_file") for which in ("certificate", "key")]
    try:
        # Without a password, OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError:
        raise ValueError(
            f"{names[0]}: {files.certificate}, with {names[1]} {files.key}, is not a certificate "
            "in PEM format with its own key, unencrypted"
        ) from None


def secret(setting: str, file: Path) -> SecretStr:
    """Read a password from a file, without the line break at its end.

    Raises `ValueError` that names the setting.
    """
    try:
        with file.open("rb") as opened:
            read = opened.read(MAX_SECRET_BYTES).rstrip(b"\r\n").decode()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{variable_name(setting)}: {file} cannot be read as text") from None
    if not read:
        raise ValueError(f"{variable_name(setting)}: {file} is empty")
    return SecretStr(read)
