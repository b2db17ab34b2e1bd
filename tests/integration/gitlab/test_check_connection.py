"""Test `projector gitlab check` on connections that TLS refuses, and on one through a pooler."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from projector.config.gitlab_settings import GitlabSettings
from projector.gitlab.setup.check import check
from projector.gitlab.setup.findings import ACCESS_FILE, ENVIRONMENT, Finding
from projector.gitlab.setup.setup_script import script
from tests.integration.gitlab import postgres
from tests.integration.gitlab.gitlab_database import BRIDGE, BRIDGE_PASSWORD, GitlabDatabase
from tests.integration.gitlab.postgres import Postgres, running_postgres

BASE = "gitlabhq_production"
# BackendKeyData of PostgreSQL's protocol: a process id and a secret follow.
KEY_DATA = b"K\x00\x00\x00\x0c"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[Postgres]:
    """A GitLab database that speaks TLS as `localhost`, set up by the printed script."""
    folder = postgres.new_folder()
    identity = authority.issue_cert("localhost")
    identity.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    identity.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(folder / "key.pem", postgres.SUPERUSER)
        shutil.chown(folder / "cert.pem", postgres.SUPERUSER)
    with running_postgres(
        ssl="on", max_slot_wal_keep_size="1GB",
        ssl_cert_file=str(folder / "cert.pem"), ssl_key_file=str(folder / "key.pem"),
    ) as server:  # fmt: skip
        server.execute(f"CREATE DATABASE {BASE}")
        GitlabDatabase(server, BASE).create()
        given = GitlabSettings(database=dsn(server))  # type: ignore[arg-type]
        server.psql(script(given), BASE)
        yield server
    shutil.rmtree(folder)


def dsn(server: Postgres, **parts: Any) -> str:
    return psycopg.conninfo.make_conninfo(server.dsn(BASE, BRIDGE, BRIDGE_PASSWORD), **parts)


def found(string: str, folder: Path) -> list[Finding]:
    given = GitlabSettings(database=string, state=folder / "gitlab.db")  # type: ignore[arg-type]
    return [each for checked in check(given) for each in checked.findings]


@pytest.fixture
def root(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def test_a_certificate_that_is_trusted_passes(server: Postgres, root: Path) -> None:
    string = dsn(server, host="localhost", sslmode="verify-full", sslrootcert=root)
    assert [each for each in found(string, root.parent) if not each.is_hint] == []


def test_certificates_that_tls_refuses_are_explained(server: Postgres, root: Path) -> None:
    other = root.with_name("other.pem")
    trustme.CA().cert_pem.write_to_path(other)
    for parts, sentence in (
        ({"host": "localhost", "sslrootcert": other}, "not of a trusted CA"),
        ({"host": "127.0.0.1", "sslrootcert": root}, "another host name"),
        ({"host": "localhost", "sslrootcert": root.with_name("none.pem")}, "CA's certificate is"),
    ):
        (one,) = found(dsn(server, sslmode="verify-full", **parts), root.parent)
        assert sentence in one.sentence
        assert not one.is_hint
        assert one.remedies


def test_pg_hba_conf_is_mended_by_the_printed_line_and_never_without_tls(
    server: Postgres, root: Path
) -> None:
    access = server.data / "pg_hba.conf"
    before = access.read_text()
    string = dsn(server, host="localhost", sslmode="verify-full", sslrootcert=root)
    try:
        access.write_text("local all all trust\nhostssl all postgres 127.0.0.1/32 scram-sha-256\n")
        server.set()
        (plain,) = found(dsn(server, sslmode="disable"), root.parent)
        assert "without TLS" in plain.sentence
        assert [each.place for each in plain.remedies] == [ENVIRONMENT]
        (refused,) = found(string, root.parent)
        assert f"does not admit the role {BRIDGE} to the database {BASE}" in refused.sentence
        line, reload = refused.remedies
        assert line.place == ACCESS_FILE
        access.write_text(f"{access.read_text()}{line.text}\n")
        server.execute(reload.text)
        server.set()
        assert [each for each in found(string, root.parent) if not each.is_hint] == []
        assert "without TLS" in found(dsn(server, sslmode="disable"), root.parent)[0].sentence
    finally:
        access.write_text(before)
        server.set()


def test_a_pooler_is_noticed(server: Postgres, tmp_path: Path) -> None:
    with pooler(server.port) as port:
        # A pooler ends TLS itself; this one passes bytes on, so it needs plain ones.
        (one,) = found(dsn(server, port=port, sslmode="disable"), tmp_path)
    assert "PgBouncer" in one.sentence
    assert not one.is_hint


@contextmanager
def pooler(upstream: int) -> Iterator[int]:
    """Pass everything on, with another process id, as poolers make one up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=_serve, args=(listening, upstream))
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def _serve(listening: socket.socket, upstream: int) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", upstream))
        ways = [
            threading.Thread(target=_pass, args=way) for way in ((client, server), (server, client))
        ]
        for way in ways:
            way.start()
        for way in ways:
            way.join()
        client.close()
        server.close()


def _pass(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        before, found, after = data.partition(KEY_DATA)
        target.sendall(before + found + b"\x00\x00\x00\x01" + after[4:] if found else data)
    target.shutdown(socket.SHUT_WR)
