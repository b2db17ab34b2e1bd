"""A GitLab-shaped database on a test's PostgreSQL, owned and written by a role like GitLab's."""

from pathlib import Path
from typing import Any, Final

import psycopg

from tests.integration.gitlab.postgres import Postgres

SCHEMA: Final = Path(__file__).parents[3] / "examples" / "gitlab" / "schema.sql"
SETUP: Final = Path(__file__).with_name("setup.sql")
OWNER: Final = "gitlab"
BRIDGE: Final = "projector"
BRIDGE_PASSWORD: Final = "bridge's secret"
ROLES: Final = f"""
DO $$ BEGIN CREATE ROLE {OWNER} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE {BRIDGE} LOGIN REPLICATION PASSWORD 'bridge''s secret';
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""


class GitlabDatabase:
    """One database with GitLab's tables, and the connections of those who use it."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server, self.name = server, name

    def create(self) -> None:
        """Make roles and tables in a new, empty database."""
        self.server.psql(ROLES)
        self.server.psql(f'ALTER DATABASE "{self.name}" OWNER TO {OWNER}')
        with self.connect() as gitlab:
            gitlab.execute(SCHEMA.read_bytes())

    def set_up(self) -> None:
        """Do what an administrator does once: grants and the publication."""
        with self.connect() as gitlab:
            gitlab.execute(SETUP.read_bytes())

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Connect as GitLab itself does: the owner of the tables, no superuser."""
        dsn = self.server.socket_dsn(self.name, OWNER)
        return psycopg.connect(dsn, **{"autocommit": True, **options})

    @property
    def bridge_dsn(self) -> str:
        """The connection string for the bridge: TCP, with its password."""
        return self.server.dsn(self.name, BRIDGE, BRIDGE_PASSWORD)
