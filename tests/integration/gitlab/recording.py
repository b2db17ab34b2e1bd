"""The bytes of pgoutput for known statements, recorded for tests/unit/gitlab/recorded.py.

`python -m tests.integration.gitlab.recording` records them anew, with the newest PostgreSQL here.
"""

import json
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.gitlab.postgres import Postgres, binaries, running_postgres

FOLDER: Final = Path(__file__).parents[2] / "data"
LARGE: Final = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) AS n)"
STEPS: Final = {
    "insert": """
        INSERT INTO members (id, access_level, source_id, source_type, user_id, type, requested_at,
          expires_at, created_at, updated_at, invite_email)
        VALUES (9007199254740993, 30, 1, 'Namespace', NULL, 'GroupMember',
          '2026-02-03 04:05:06.789', '2027-12-31', '2026-01-01', '2026-01-01', 'a@example.com'),
          (2, -1, 1, 'Namespace', NULL, 'GroupMember', '2026-02-03', 'infinity', '2026-01-01',
          '2026-01-01', E'tab\\tand \\\\ snowman \\u2603')
    """,
    "booleans": """
        INSERT INTO namespaces (id, name, path, type, share_with_group_lock, created_at, updated_at)
        VALUES (1, 'a', 'a', 'Group', true, '2026-01-01', '2026-01-01'),
          (2, 'b', 'b', 'User', false, '2026-01-01', '2026-01-01'),
          (3, 'c', 'c', 'Group', NULL, '2026-01-01', '2026-01-01')
    """,
    "update": "UPDATE namespaces SET parent_id = 1 WHERE id = 3",
    "key-change": "UPDATE namespaces SET id = 4 WHERE id = 3",
    "delete": "DELETE FROM namespaces WHERE id = 4",
    "jsonb": f"""
        INSERT INTO projects (id, namespace_id, created_at, updated_at)
        VALUES (1, 1, '2026-01-01', '2026-01-01');
        INSERT INTO cluster_agents (id, project_id, name, created_at, updated_at)
        VALUES (1, 1, 'agent', '2026-01-01', '2026-01-01');
        INSERT INTO agent_project_authorizations (id, project_id, agent_id, config)
        SELECT 1, 1, 1, jsonb_build_object('environments', '[]'::jsonb, 'large', {LARGE})
    """,
    "unchanged-large-value": "UPDATE agent_project_authorizations SET project_id = 1",
    "full-identity": """
        ALTER TABLE agent_project_authorizations REPLICA IDENTITY FULL;
        UPDATE agent_project_authorizations SET project_id = 1;
        DELETE FROM agent_project_authorizations
    """,
    "identity-by-index": """
        CREATE UNIQUE INDEX by_path ON namespaces (path, id);
        ALTER TABLE namespaces ALTER COLUMN path SET NOT NULL;
        ALTER TABLE namespaces REPLICA IDENTITY USING INDEX by_path;
        UPDATE namespaces SET path = 'z' WHERE id = 2;
        DELETE FROM namespaces WHERE id = 2
    """,
    "partitions": """
        INSERT INTO p_ci_builds (id, partition_id, status, type, protected, timeout, started_at,
          created_at, updated_at, token_encrypted)
        VALUES (1, 100, 'running', 'Ci::Build', false, 3600, '2026-01-01 00:00:00', '2026-01-01',
          '2026-01-01', 'encrypted'),
          (2, 101, 'running', 'Ci::Build', NULL, NULL, NULL, '2026-01-01', '2026-01-01', NULL);
        UPDATE p_ci_builds SET partition_id = 101 WHERE id = 1;
        DELETE FROM p_ci_builds WHERE id = 2
    """,
    "relation-renewed": """
        ALTER TABLE users RENAME name TO full_name;
        INSERT INTO users (id, username, state, created_at, updated_at)
        VALUES (1, 'amy', 'active', '2026-01-01', '2026-01-01');
        ALTER TABLE users DROP COLUMN encrypted_password;
        INSERT INTO users (id, username, state, email, created_at, updated_at)
        VALUES (2, 'bob', 'blocked', 'bob', '2026-01-01', '2026-01-01')
    """,
    "own-type": """
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        ALTER TABLE users ADD COLUMN mood mood DEFAULT 'sad';
        UPDATE users SET mood = 'happy' WHERE id = 1
    """,
    "origin": """
        SELECT pg_replication_origin_create('elsewhere');
        SELECT pg_replication_origin_session_setup('elsewhere');
        UPDATE users SET state = 'active' WHERE id = 2;
    """,
    "message": """
        SELECT pg_logical_emit_message(true, 'prefix', 'content');
        DELETE FROM users WHERE id = 2
    """,
    "other-schema": """
        INSERT INTO other.users VALUES ('x', 'y');
        DELETE FROM users WHERE id = 1
    """,
    "truncate": "TRUNCATE agent_project_authorizations, agent_group_authorizations",
}


def record() -> dict[str, list[bytes]]:
    """Run the steps on a new server; return the messages of each."""
    with running_postgres() as server:
        server.execute("CREATE DATABASE gitlab")
        gitlab = GitlabDatabase(server, "gitlab")
        gitlab.create()
        gitlab.set_up()
        server.execute(
            "CREATE SCHEMA other; CREATE TABLE other.users (id text PRIMARY KEY, more text);"
            "ALTER PUBLICATION projector ADD TABLE other.users", database="gitlab",
        )  # fmt: skip
        server.execute(
            "SELECT pg_create_logical_replication_slot('recorder', 'pgoutput')", database="gitlab"
        )
        return dict(_steps(server))


def _steps(server: Postgres) -> Iterator[tuple[str, list[bytes]]]:
    with (
        closing(server.connect("gitlab", replication="database")) as stream,
        server.connect("gitlab") as writer,
    ):
        stream.execute("SET datestyle = ISO")
        stream.execute("SET timezone = UTC")
        stream.execute(
            "START_REPLICATION SLOT recorder LOGICAL 0/0 (proto_version '1',"
            " publication_names 'projector', messages 'true')"
        )
        for name, statements in STEPS.items():
            with writer.transaction():
                writer.execute(statements.encode())
            yield name, _transaction(stream)


def _transaction(stream: psycopg.Connection[Any]) -> list[bytes]:
    messages: list[bytes] = []
    while not messages or messages[-1][:1] != b"C":
        stream.pgconn.consume_input()
        size, data = stream.pgconn.get_copy_data(1)
        assert size >= 0
        if size == 0:
            stream.pgconn.put_copy_data(struct.pack("!cQQQQB", b"r", 0, 0, 0, 0, 0))
            stream.pgconn.flush()
            time.sleep(0.01)
        elif (message := bytes(data))[:1] == b"w":
            messages.append(message[25:])
    return messages


def path(version: int) -> Path:
    return FOLDER / f"pgoutput-{version}.json"


def main() -> None:
    folder = binaries()
    assert folder is not None
    steps = {name: [m.hex() for m in messages] for name, messages in record().items()}
    path(int(folder.parent.name)).write_text(json.dumps(steps, indent=1) + "\n")


if __name__ == "__main__":
    main()
