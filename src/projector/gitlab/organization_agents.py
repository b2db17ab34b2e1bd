"""GitLab's setting that lets agents serve projects and groups of other root namespaces.

It is a key of a JSON column of `application_settings`, or a column of its own.
"""

from typing import Any, Final

from psycopg import Connection, sql

from projector.gitlab.relations import SCHEMA

SETTING: Final = "organization_cluster_agent_authorization_enabled"
JSON_COLUMN: Final = "cluster_agents"
_READABLE: Final = """
    SELECT a.attname::text FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
    WHERE c.oid = to_regclass(%s) AND a.attname = ANY (%s)
    AND has_column_privilege(c.oid, a.attnum, 'SELECT')
"""
_TABLE: Final = f"{SCHEMA}.application_settings"


def read_organization_agents(connection: Connection[Any]) -> bool | None:
    """Return the setting; None if this GitLab has none, or the role may not read it."""
    found = connection.execute(_READABLE, [_TABLE, ["id", SETTING, JSON_COLUMN]]).fetchall()
    columns = {name for (name,) in found}
    if "id" not in columns or not columns & {SETTING, JSON_COLUMN}:
        return None
    value = sql.Identifier(SETTING)
    if SETTING not in columns:
        value = sql.SQL("{column} ->> {key}").format(  # type: ignore[assignment]
            column=sql.Identifier(JSON_COLUMN), key=SETTING
        )
    # GitLab itself reads the latest row.
    query = sql.SQL("SELECT ({value})::text FROM {table} ORDER BY id DESC LIMIT 1").format(
        value=value, table=sql.Identifier(*_TABLE.split("."))
    )
    row = connection.execute(query).fetchone()
    return row is not None and row[0] == "true"
