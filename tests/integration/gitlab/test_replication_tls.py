"""Test the reader of a replication slot over TLS."""

import asyncio
import os
import shutil

import pytest
import trustme
from psycopg.conninfo import make_conninfo

from projector.gitlab.postgres.replication import Replication
from projector.ports import LOOPBACK
from tests.integration.gitlab.follower import PUBLICATION, Follower, new_slot, slot_of
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.gitlab.postgres import SUPERUSER, Postgres


def with_tls(server: Postgres) -> str:
    """Restart the server with a certificate; return the file of the CA."""
    authority = trustme.CA()
    certificate = authority.issue_cert(LOOPBACK)
    files = [server.folder / name for name in ("ca.pem", "cert.pem", "key.pem")]
    authority.cert_pem.write_to_path(files[0])
    certificate.cert_chain_pems[0].write_to_path(files[1])
    certificate.private_key_pem.write_to_path(files[2])
    files[2].chmod(0o600)
    if os.geteuid() == 0:
        for file in files:
            shutil.chown(file, SUPERUSER, SUPERUSER)
    settings = {"ssl": "on", "ssl_cert_file": str(files[1]), "ssl_key_file": str(files[2])}
    server.restart("fast", settings)
    return str(files[0])


async def test_messages_larger_than_a_record_of_tls_are_not_left_lying(
    own_gitlab: GitlabDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket is not readable for bytes that the TLS library has read already."""
    authority = with_tls(own_gitlab.server)
    dsn = make_conninfo(own_gitlab.bridge_dsn, sslmode="verify-full", sslrootcert=authority)
    # The status of every second would read the rest, and hide what is wrong.
    monkeypatch.setattr("projector.gitlab.postgres.replication.STATUS_S", 3600.0)
    lsn = await new_slot(own_gitlab)
    replication = await Replication.connect(dsn)
    await replication.start(slot_of(own_gitlab), PUBLICATION, lsn)
    follower = Follower(replication, 5000)
    with own_gitlab.connect() as gitlab:
        gitlab.execute("INSERT INTO projects (id, namespace_id) VALUES (1, 1)")
        gitlab.execute("INSERT INTO cluster_agents (id, project_id, name) VALUES (1, 1, 'a')")
        await follower.until(lambda: len(follower.changes) == 2)
        for number in range(1, 40):
            gitlab.execute(
                "INSERT INTO agent_organization_authorizations (id, organization_id, agent_id,"
                " config) VALUES (1, 1, 1, jsonb_build_object('x', repeat('x', %s)))"
                " ON CONFLICT (agent_id) DO UPDATE SET config = excluded.config",
                [number * 4093],
            )
            async with asyncio.timeout(5):
                await follower.until(lambda: len(follower.changes) == number + 2)  # noqa: B023
    await follower.close()
