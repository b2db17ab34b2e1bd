"""The publication as of one moment, in a form that can be compared with that of another."""

from collections.abc import Iterable
from typing import Any, Final

import psycopg

from projector.gitlab.mapping.tables import Table
from projector.gitlab.postgres.relations import SCHEMA

# A table that was taken out and put in again has a new row in pg_publication_rel, and one that was
# made anew has a new oid. ALTER PUBLICATION … SET (publish …) leaves a new xmin behind. A table's
# partitions are not listed: they may come and go. No oid is used twice within any likely time.
_PUBLISHED: Final = """
    SELECT '' AS name, p.oid::bigint AS oid, p.xmin::text::bigint AS published
    FROM pg_catalog.pg_publication p WHERE p.pubname = %(publication)s
    UNION ALL
    SELECT c.relname::text, c.oid::bigint, r.oid::bigint
    FROM pg_catalog.pg_class c LEFT JOIN (
      pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
        AND p.pubname = %(publication)s) ON r.prrelid = c.oid
    WHERE c.relnamespace = pg_catalog.to_regnamespace(%(schema)s) AND c.relname = ANY (%(tables)s)
    ORDER BY 1
"""


def read_published(
    connection: psycopg.Connection[Any], publication: str, tables: Iterable[Table]
) -> str:
    """Return a text that differs once a table was left out for a while, or changes were.

    Whoever reads the same text twice gets every change between, if the publication is as it must
    be at one of the two.
    """
    names = [table.name for table in tables]
    values = {"publication": publication, "schema": SCHEMA, "tables": names}
    rows = connection.execute(_PUBLISHED, values).fetchall()
    return " ".join(f"{name}:{oid}:{published or '-'}" for name, oid, published in rows)
