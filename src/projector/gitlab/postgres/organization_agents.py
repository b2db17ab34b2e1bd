"""GitLab's setting that lets agents be used outside their top-level group, or everywhere."""

from typing import Any, Final

import psycopg
from psycopg import errors

NAME: Final = "organization_cluster_agent_authorization_enabled"
# GitLab keeps it among the settings of agents, in the newest row.
_READ: Final = (
    f"SELECT cluster_agents ->> '{NAME}' FROM public.application_settings ORDER BY id DESC LIMIT 1"
)


def read_organization_agents(connection: "psycopg.Connection[Any]") -> bool | None:
    """Read the setting; what cannot be read is off. None: this is a database without settings.

    An administrator may have turned it off, and agents must not be listed then. No GitLab is
    without `application_settings`.
    """
    try:
        row = connection.execute(_READ).fetchone()
    except errors.UndefinedTable:
        return None
    except psycopg.ProgrammingError:
        return False
    return row is not None and row[0] == "true"
