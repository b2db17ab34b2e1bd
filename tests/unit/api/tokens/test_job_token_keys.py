"""Files of public keys: which are refused at the start, and what happens when they change."""

import asyncio
import datetime
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from structlog.testing import capture_logs

from api import metrics
from api.tokens import job_token_keys
from api.tokens.job_token_keys import KeyFiles, PublicKey
from projector.errors import SettingsError
from tests.job_tokens import VECTOR, signing_key

ONE, TWO = signing_key(0), signing_key(1)
SPKI = PublicFormat.SubjectPublicKeyInfo


def private(form: PrivateFormat, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return ONE.private.private_bytes(Encoding.PEM, form, encryption)


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gitlab")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
        .not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=9))
        .public_key(ONE.private.public_key())
    )  # fmt: skip
    return built.sign(ONE.private, hashes.SHA256()).public_bytes(Encoding.PEM)


def elliptic() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.PEM, SPKI)


def edwards() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.public_key().public_bytes(Encoding.PEM, SPKI)


def der() -> bytes:
    return ONE.private.public_key().public_bytes(Encoding.DER, SPKI)


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not in PEM format"),
    "text": (lambda: b"s3cr3t", "not in PEM format"),
    "DER": (der, "not in PEM format"),
    "zeros": (lambda: b"\0" * 1_000_000, "not in PEM format"),
    "PKCS 8": (lambda: private(PrivateFormat.PKCS8), "private key"),
    "PKCS 1": (lambda: private(PrivateFormat.TraditionalOpenSSL), "private key"),
    "OpenSSH": (lambda: private(PrivateFormat.OpenSSH), "private key"),
    "encrypted": (lambda: private(PrivateFormat.PKCS8, b"x"), "private key"),
    "public, then private": (lambda: ONE.pem + private(PrivateFormat.PKCS8), "private key"),
    "two public keys": (lambda: ONE.pem + TWO.pem, "several keys"),
    "the same key twice": (lambda: ONE.pem * 2, "several keys"),
    "a certificate": (certificate, "does not hold a public key"),
    "half a key": (lambda: ONE.pem[:200], "does not hold a public key"),
    "an elliptic key": (elliptic, "does not hold an RSA key"),
    "an Ed25519 key": (edwards, "does not hold an RSA key"),
    "1024 bits": (lambda: signing_key(9, 1024).pem, "its key has 1024 bits; 2048 is the least"),
}


@pytest.mark.parametrize(("content", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_file_without_one_public_rsa_key_is_refused_and_never_quoted(
    tmp_path: Path, content: Callable[[], bytes], says: str
) -> None:
    (file := tmp_path / "key.pem").write_bytes(written := content())
    with pytest.raises(SettingsError) as refused:
        KeyFiles([file])
    said = str(refused.value)
    assert said.startswith(f"PROJECTOR_JOB_TOKEN_KEYS: {file}: ")
    assert says in said
    assert not any(line in said.encode() for line in written.splitlines() if len(line) > 5)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path if kind == "folder" else tmp_path / "none.pem"
    with pytest.raises(SettingsError, match=r"No such file|Is a directory"):
        KeyFiles([file])


def test_a_key_has_the_thumbprint_that_gitlab_gives_it(tmp_path: Path) -> None:
    (file := tmp_path / "key.pem").write_text(VECTOR["pem"])
    ((kid, key),) = KeyFiles([file]).keys.items()
    assert (kid, key.file) == (VECTOR["kid"], file)


@pytest.mark.parametrize(
    "content",
    [
        ONE.pem,
        ONE.pem.replace(b"\n", b"\r\n"),
        b"warning: something\n" + ONE.pem,
        ONE.private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
    ],
    ids=["as printed", "line ends of Windows", "a line before", "PKCS 1"],
)
def test_a_public_key_is_read_in_any_usual_form(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "key.pem").write_bytes(content)
    assert list(KeyFiles([file]).keys) == [ONE.kid]


class Files:
    """Two key files, read again when a test asks for it."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "one.pem", folder / "two.pem"]
        for path, key in zip(self.paths, (ONE, TWO), strict=True):
            path.write_bytes(key.pem)
        self.keys = KeyFiles(self.paths)

    @property
    def kids(self) -> set[str]:
        return set(self.keys.keys)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_a_file_that_changes_is_read_again(files: Files) -> None:
    files.paths[1].write_bytes((new := signing_key(2)).pem)
    with capture_logs() as logged:
        await files.keys.refresh()
        await files.keys.refresh()
    assert files.kids == {ONE.kid, new.kid}
    assert [(line["event"], line["kids"]) for line in logged] == [
        ("keys of job tokens changed", sorted([ONE.kid, new.kid]))
    ]


async def test_files_that_do_not_change_keep_their_keys(files: Files) -> None:
    before = files.keys.keys
    files.paths[0].write_bytes(ONE.pem)
    os.utime(files.paths[0], (1, 1))
    await files.keys.refresh()
    assert files.keys.keys is before


async def test_a_symbolic_link_that_is_swapped_is_followed(tmp_path: Path) -> None:
    """As Kubernetes does with a Secret: the file's own path stays a link, and so does its age."""
    for name, key in (("..1", ONE), ("..2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.pem").write_bytes(key.pem)
        os.utime(tmp_path / name / "key.pem", (1, 1))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key.pem").symlink_to("..data/key.pem")
    files = KeyFiles([tmp_path / "key.pem"])
    assert list(files.keys) == [ONE.kid]
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    await files.refresh()
    assert list(files.keys) == [TWO.kid]


@pytest.mark.parametrize("damage", ["removed", "another key", "emptied", "a folder"])
async def test_a_file_that_becomes_unreadable_is_a_fault_until_it_is_back(
    files: Files, damage: str
) -> None:
    before, path = files.keys.keys, files.paths[0]
    path.unlink()
    match damage:
        case "another key":
            path.write_bytes(elliptic())
        case "emptied":
            path.touch()
        case "a folder":
            path.mkdir()
    with capture_logs() as logged:
        await files.keys.refresh()
        await files.keys.refresh()
        assert files.keys.fault
        assert str(path) in files.keys.fault
        assert metrics.KEYS_UNREADABLE._value.get() == 1
        if damage == "a folder":
            path.rmdir()
        path.write_bytes(ONE.pem)
        await files.keys.refresh()
    assert files.keys.fault is None
    assert files.keys.keys is before
    assert metrics.KEYS_UNREADABLE._value.get() == 0
    assert [(line["log_level"], line["event"]) for line in logged] == [
        ("error", "keys of job tokens unreadable, signed tokens get 503"),
        ("info", "keys of job tokens readable again"),
    ]


async def test_an_error_that_nobody_thought_of_is_a_fault_too(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("s3cr3t")

    monkeypatch.setattr(job_token_keys, "_read", broken)
    with capture_logs() as logged:
        await files.keys.refresh()
    assert files.keys.fault == "PROJECTOR_JOB_TOKEN_KEYS: RuntimeError"
    assert "s3cr3t" not in str(logged)


async def test_the_files_are_watched(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projector.config.watched_files.WATCH_INTERVAL_S", 0.001)
    watching = asyncio.create_task(files.keys.watch())
    try:
        files.paths[0].write_bytes(signing_key(2).pem)
        async with asyncio.timeout(5):
            while ONE.kid in files.kids:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    finally:
        watching.cancel()


def test_keys_are_compared_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(ONE.pem)
    (tmp_path / "b").write_bytes(ONE.pem)
    keys = KeyFiles([tmp_path / "a", tmp_path / "b"]).keys
    assert keys == {ONE.kid: PublicKey(tmp_path / "b", keys[ONE.kid].rsa)}


def test_the_command_of_the_runbook_prints_the_kid_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "new-key.pem").write_bytes(TWO.pem)
    runbook = (Path(__file__).parents[4] / "docs" / "runbook.md").read_text()
    (command,) = re.findall(r"^ *(python -c .*KeyFiles.*)$", runbook, re.M)
    _, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{TWO.kid}\n", "")
