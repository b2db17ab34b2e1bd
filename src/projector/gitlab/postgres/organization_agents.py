"""GitLab's setting that lets agents be used outside their top-level group."""

from typing import Any, Final

import psycopg
from psycopg import errors

NAME: Final = "organization_cluster_agent_authorization_enabled"
# GitLab keeps it among the settings of agents, in the newest row.
_READ: Final = (
    f"SELECT cluster_agents ->> '{NAME}' FROM public.application_settings ORDER BY id DESC LIMIT 1"
)


def read_organization_agents(connection: "psycopg.Connection[Any]") -> bool | None:
    """Read the setting; None where this GitLab has none, or the bridge may not read it."""
    try:
        row = connection.execute(_READ).fetchone()
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege):
        return None
    return None if row is None else row[0] == "true"
