"""Kafka and Redis with TLS, users and passwords, and the certificates for them."""

import shutil
from pathlib import Path
from typing import NamedTuple, Self

import trustme
from cryptography.hazmat.primitives import serialization as pem

from tests.absence import skip_test
from tests.integration import servers
from tests.integration.ports import free_port
from tests.integration.servers import Server

USER = "projector"
PASSWORD = "s3cret-of-the-projector"
WRONG_PASSWORD = "n0t-the-password"
# The servers' certificate is valid for this name only, so 127.0.0.1 is a wrong one.
NAME = "localhost"
ANY_ADDRESS = "127.0.0.1"
_MODULES = "org.apache.kafka.common.security"


class Certificates(NamedTuple):
    """PEM files: a CA, certificates and keys of server and client, and a CA that signed none."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    stranger: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        made = cls(*(folder / f"{field}.pem" for field in cls._fields))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(made.authority))
        trustme.CA().cert_pem.write_to_path(str(made.stranger))
        for certificate, key, issued in (
            (made.server, made.server_key, authority.issue_cert(NAME)),
            (made.client, made.client_key, authority.issue_cert(f"{USER}.example")),
        ):
            certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
            key.write_bytes(_pkcs8(issued.private_key_pem.bytes()))
        return made


def _pkcs8(key: bytes) -> bytes:
    """Convert a private key to PKCS #8, the only form that Kafka reads."""
    return pem.load_pem_private_key(key, None).private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
    )


class SecureKafka:
    """Apache Kafka with a listener of each kind; `plaintext` has all rights, for setup."""

    def __init__(self, folder: Path, certificates: Certificates, *properties: str) -> None:
        ports = {name: free_port() for name in ("plaintext", "sasl_ssl", "ssl", "strange")}
        self.plaintext = f"{ANY_ADDRESS}:{ports['plaintext']}"
        self.sasl_ssl = f"{NAME}:{ports['sasl_ssl']}"
        self.mutual_tls = f"{NAME}:{ports['ssl']}"
        # This listener has the certified name, but advertises one that is not certified.
        self.advertised_strangely = f"{NAME}:{ports['strange']}"
        self.ports = list(ports.values())
        self.server = self._start(folder, certificates, ports, properties)

    def _start(
        self,
        folder: Path,
        certificates: Certificates,
        ports: dict[str, int],
        properties: tuple[str, ...],
    ) -> Server:
        keystore = folder / "keystore.pem"
        keystore.write_bytes(
            certificates.server_key.read_bytes() + certificates.server.read_bytes()
        )
        controller = free_port()
        listeners = {f"{name.upper()}": f"{ANY_ADDRESS}:{port}" for name, port in ports.items()}
        advertised = listeners | {"SASL_SSL": self.sasl_ssl, "SSL": self.mutual_tls}
        plain = f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        scram = f"{_MODULES}.scram.ScramLoginModule required;"
        return servers.apache_kafka(
            folder, ports["plaintext"], controller, "run",
            f"listeners={_list(listeners | {'CONTROLLER': f'{ANY_ADDRESS}:{controller}'})}",
            f"advertised.listeners={_list(advertised)}",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
            "SASL_SSL:SASL_SSL,SSL:SSL,STRANGE:SASL_SSL",
            "inter.broker.listener.name=PLAINTEXT",
            "ssl.keystore.type=PEM", f"ssl.keystore.location={keystore}",
            "ssl.truststore.type=PEM", f"ssl.truststore.location={certificates.authority}",
            "listener.name.ssl.ssl.client.auth=required",
            "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN",
            *(f"listener.name.{name}.plain.sasl.jaas.config={plain}" for name in _SASL),
            *(f"listener.name.{name}.scram-sha-512.sasl.jaas.config={scram}" for name in _SASL),
            f"--add-scram=SCRAM-SHA-512=[name={USER},password={PASSWORD}]",
            *properties,
        )  # fmt: skip


_SASL = ("sasl_ssl", "strange")


def _list(listeners: dict[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in listeners.items())


def redis_program() -> str | None:
    """Find a Redis or Valkey with TLS, which the embedded one lacks."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


def redis_or_skip() -> None:
    """Skip a test without such a server."""
    if redis_program() is None:
        reason = (
            "NO TEST RUNS ON A REDIS WITH TLS: neither redis-server nor valkey-server installed"
        )
        skip_test(reason)


def redis_server(
    folder: Path, port: int, certificates: Certificates, users: Path, *options: str
) -> Server:
    """Start a server with only TLS and the users of an ACL file.

    Client certificates are optional.
    """
    program = redis_program()
    assert program
    return Server(
        [
            program, "--bind", ANY_ADDRESS, "--port", "0", "--tls-port", str(port),
            "--dir", str(folder), "--save", "", "--appendonly", "no",
            "--maxmemory-policy", "noeviction", "--aclfile", str(users),
            "--tls-cert-file", str(certificates.server),
            "--tls-key-file", str(certificates.server_key),
            "--tls-ca-cert-file", str(certificates.authority),
            "--tls-auth-clients", "optional", *options,
        ],
        folder / "redis.log",
    )  # fmt: skip
