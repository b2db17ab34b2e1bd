"""GitLab's setting about agents, on PostgreSQL: what cannot be read is off."""

import psycopg
import pytest

from projector.gitlab.postgres.organization_agents import NAME, read_organization_agents
from tests.integration.gitlab.gitlab_database import GitlabDatabase

SET = "UPDATE application_settings SET cluster_agents = "


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        (f"{SET} '{{\"{NAME}\": true}}'", True),
        (f"{SET} '{{\"{NAME}\": false}}'", False),
        (f"{SET} '{{\"{NAME}\": null}}'", False),
        (f"{SET} '{{}}'", False),
        (f"{SET} '[]'", False),
        ("DELETE FROM application_settings", False),
        ("REVOKE ALL (cluster_agents) ON application_settings FROM projector", False),
        ("REVOKE ALL (id) ON application_settings FROM projector", False),
        ("ALTER TABLE application_settings DROP COLUMN cluster_agents", False),
        ("ALTER TABLE application_settings ALTER cluster_agents DROP DEFAULT,"
         " ALTER cluster_agents TYPE int USING 1", False),
        ("DROP TABLE application_settings", None),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_read_is_off(
    gitlab_database: GitlabDatabase, change: str, allowed: bool | None
) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute(f"{SET} '{{\"{NAME}\": true}}'".encode())
        gitlab.execute(change.encode())
    with psycopg.connect(gitlab_database.bridge_dsn, autocommit=True) as bridge:
        assert read_organization_agents(bridge) is allowed
