"""The SQL that a database administrator runs once in GitLab's database, and may run again."""

from typing import Any, Final

from psycopg import conninfo, sql

from projector.config.gitlab_settings import GitlabSettings
from projector.gitlab.postgres.dsn import Database, connection_strings
from projector.gitlab.setup.check import wanted_of
from projector.gitlab.setup.findings import name, statement
from projector.gitlab.setup.publication_requirements import OPTIONS
from projector.gitlab.setup.setup_reading import SCHEMA, Wanted
from projector.gitlab.setup.table_requirements import grant

HEAD: Final = """\
-- By a superuser, with psql in GitLab's database {database} (Omnibus: gitlab-psql). It may be run
-- again. The role gets no password here; set one: \\password {user}
"""
SETTINGS: Final = """\
-- postgresql.conf (Omnibus: gitlab.rb); the first three need a restart:
--   wal_level = logical
--   max_replication_slots, max_wal_senders: two more than are in use
--   max_slot_wal_keep_size = 10GB, or a bridge that stands still would fill GitLab's disk
-- pg_hba.conf, and for this role no line with the keyword `replication`:
--   hostssl {database} {user} <address of the bridge>/32 scram-sha-256
"""
ROLE: Final = """\
DO $$ BEGIN
  CREATE ROLE {role} LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
ALTER ROLE {role} LOGIN {replication};
GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA {schema} TO {role};
"""
WHERE_THERE_IS_ONE: Final = """\
DO $$ BEGIN
  {grant}
EXCEPTION WHEN undefined_table OR undefined_column THEN NULL;  -- not in every GitLab
END $$;
"""
PUBLICATION: Final = """\
-- Not before every table has a replica identity: GitLab's own UPDATE and DELETE would fail.
DO $$ DECLARE
  wanted CONSTANT text[] := ARRAY[{tables}];
  lacking text;
  listed text;
BEGIN
  SELECT string_agg(c.oid::regclass::text, ', ') INTO lacking
  FROM unnest(wanted) AS name
    JOIN pg_class root ON root.oid = to_regclass(name)
    JOIN pg_class c ON c.relkind = 'r' AND (c.oid = root.oid
      OR c.oid IN (SELECT relid FROM pg_partition_tree(root.oid) WHERE isleaf))
  WHERE c.relreplident <> 'f' AND NOT EXISTS (
    SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate
      AND i.indpred IS NULL
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END);
  IF lacking IS NOT NULL THEN
    RAISE EXCEPTION 'no publication, since these have no replica identity: %', lacking
      USING HINT = '`projector gitlab check` prints what mends it';
  END IF;
  SELECT string_agg(name, ', ' ORDER BY place) INTO listed
  FROM unnest(wanted) WITH ORDINALITY AS t (name, place) WHERE to_regclass(name) IS NOT NULL;
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = {literal} AND puballtables) THEN
    DROP PUBLICATION {publication};
  END IF;
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = {literal}) THEN
    EXECUTE 'ALTER PUBLICATION {publication} SET TABLE ' || listed;
  ELSE
    EXECUTE 'CREATE PUBLICATION {publication} FOR TABLE ' || listed;
  END IF;
  ALTER PUBLICATION {publication} SET ({options});
END $$;
"""


def script(settings: GitlabSettings) -> str:
    """Write the script for each database; no connection is made."""
    strings = connection_strings(settings)
    return "\n".join(
        _beginning(strings, database) + _of_database(settings, database, string)
        for database, string in strings.items()
    )


def _beginning(strings: dict[Database, str], database: Database) -> str:
    """Let psql go on in the other database if the same server has it."""
    if database == "main":
        return ""
    main, other = (conninfo.conninfo_to_dict(strings[each]) for each in ("main", "ci"))
    if any(main.get(key) != other.get(key) for key in ("host", "hostaddr", "port")):
        return f"-- The rest is for another server, {other.get('host')}.\n"
    return f"\\connect {name(str(other.get('dbname'))).as_string()}\n"


def _of_database(settings: GitlabSettings, database: Database, string: str) -> str:
    parts = conninfo.conninfo_to_dict(string)
    user = str(parts.get("user") or "projector")
    base = str(parts.get("dbname") or user)
    wanted = wanted_of(settings, database)
    lines = [HEAD.format(database=base, user=user)]
    if wanted.streams:
        lines.append(SETTINGS.format(database=base, user=user))
    lines += [_role(user, base, wanted), *_grants(user, wanted)]
    if database == "main":
        lines.append(_optional(grant("application_settings", ["id", "cluster_agents"], user)))
    if wanted.streams:
        lines.append(_publication(wanted))
    return "".join(lines)


def _role(user: str, base: str, wanted: Wanted) -> str:
    return statement(
        ROLE,
        role=name(user), database=name(base), schema=name(SCHEMA),
        replication=sql.SQL("REPLICATION" if wanted.streams else "NOREPLICATION"),
    )  # fmt: skip


def _grants(user: str, wanted: Wanted) -> list[str]:
    return [
        _optional(text) if table.optional else f"{text}\n"
        for table in wanted.tables.values()
        for text in [grant(table.name, list(wanted.columns(table)), user)]
    ]


def _optional(text: str) -> str:
    return WHERE_THERE_IS_ONE.format(grant=text)


def _publication(wanted: Wanted) -> str:
    parts: dict[str, Any] = {
        "tables": sql.SQL(", ").join(f"{SCHEMA}.{table}" for table in wanted.tables),
        "publication": name(wanted.publication),
        "literal": wanted.publication,
        "options": sql.SQL(OPTIONS),
    }
    return statement(PUBLICATION, **parts)
