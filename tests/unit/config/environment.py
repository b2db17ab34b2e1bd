"""Settings from a clean environment, and the files that they may name."""

import os

import pytest
import trustme

from projector.config.settings import Settings

SECRET = "hunter2-glcbt"
SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_USERNAME": "u", "KAFKA_PASSWORD": SECRET}
TLS = {"KAFKA_SECURITY_PROTOCOL": "SSL"}


def load(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PROJECTOR_{name}", value)
    return Settings.load()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CA, a certificate and its key, another's key, and files that are none of these."""
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    mine, other = authority.issue_cert("me.example"), authority.issue_cert("other.example")
    content = {
        "ca": authority.cert_pem.bytes(),
        "certificate": mine.cert_chain_pems[0].bytes(),
        "key": mine.private_key_pem.bytes(),
        "other_key": other.private_key_pem.bytes(),
        "nothing": b"",
        "password": f"{SECRET}\r\n".encode(),
        "binary": b"\xff\xfe",
    }
    for name, written in content.items():
        (folder / name).write_bytes(written)
    return {name: str(folder / name) for name in content} | {"missing": str(folder / "missing")}
