"""Reasons why PostgreSQL cannot be reached, or refuses the bridge, with what mends them."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from psycopg import conninfo

from projector.config.env import GITLAB, variable_name
from projector.gitlab.postgres.dsn import place
from projector.gitlab.setup.findings import (
    ACCESS_FILE,
    ENVIRONMENT,
    SHELL,
    SQL,
    Finding,
    Remedy,
    name,
)

DATABASE: Final = variable_name(GITLAB + "database")
PASSWORD: Final = variable_name(GITLAB + "password_file")


class Target(NamedTuple):
    """The connection that was tried; `place` has no secrets."""

    place: str
    user: str
    database: str


def target_of(dsn: str) -> Target:
    """Return the target of a connection string."""
    parts = conninfo.conninfo_to_dict(dsn)
    user = str(parts.get("user") or "")
    return Target(place(dsn), user, str(parts.get("dbname") or user))


class Refusal(NamedTuple):
    """A message of libpq or PostgreSQL, and templates of its explanation and of what mends it."""

    pattern: str
    sentence: str
    remedies: tuple[Remedy, ...] = ()
    is_outage: bool = False
    may_pass: bool = False  # must be mended, but others may leave room meanwhile


def _sql(text: str) -> tuple[Remedy, ...]:
    return (Remedy(SQL, text),)


def _dsn(text: str) -> tuple[Remedy, ...]:
    return (Remedy(ENVIRONMENT, f"{DATABASE}={text}"),)


ACCESS: Final = (Remedy(ACCESS_FILE, "{access}"), Remedy(SQL, "SELECT pg_reload_conf();"))
# Before a line for connections without TLS would let someone in between read the rows.
TLS: Final = _dsn("… sslmode=verify-full sslrootcert=<file with the CA's certificate>")
WHO: Final = "the role {user} to the database {base}"
CA: Final = _dsn("… sslrootcert=<file with the CA's certificate>")

# The first that matches, in the English texts of libpq and of PostgreSQL 14 to 17.
REFUSALS: Final = (
    Refusal(r"could not translate host name|Name or service not known",
            "the host name is unknown", _dsn("host=<another> …"), True),
    Refusal(r"Connection refused|No such file or directory\s+Is the server running",
            "nothing listens there; correct host and port, start PostgreSQL, or let it listen "
            "(listen_addresses)", _dsn("host=… port=… …"), True),
    Refusal(r"timeout expired|timed out|No route to host|Network is unreachable",
            "there is no answer; correct host and port, or open the firewall",
            _dsn("host=… port=… …"), True),
    Refusal(r"is (starting up|shutting down|in recovery mode)|not yet accepting connections",
            "it is starting or stopping; try again", is_outage=True),
    Refusal(r"is in hot standby mode|session is (not )?read-",
            "no server there is the primary", _dsn("host=<the primary> …"), True),
    Refusal(r"unsupported startup parameter",
            "something like PgBouncer is between, and replication does not pass it",
            _dsn("host=… port=<PostgreSQL's own> …")),
    Refusal(r"password authentication failed|no password supplied",
            "the password of the role {user} is wrong or missing, or there is no such role, which "
            "`check --sql` creates",
            (Remedy(SHELL, "projector gitlab check --sql"),
             Remedy(SQL, "\\password {role}"),
             Remedy(ENVIRONMENT, f"{PASSWORD}=<a file with that password>"))),
    Refusal(r'role ".*" does not exist', "the role does not exist",
            _sql("CREATE ROLE {role} LOGIN REPLICATION;")),
    Refusal(r"is not permitted to log in", "the role may not log in",
            _sql("ALTER ROLE {role} LOGIN;")),
    # Only a connection without TLS was tried, or TLS was refused before for another reason.
    Refusal(r'^(?!.*, SSL (encryption|on)).*(no pg_hba\.conf entry|pg_hba\.conf rejects).*'
            r'host "(?!\[local\])', f"pg_hba.conf does not admit {WHO} without TLS", TLS),
    Refusal(r'no pg_hba\.conf entry for (replication connection from )?host "(?P<host>[^"]+)"',
            f"pg_hba.conf does not admit {WHO} from here", ACCESS),
    Refusal(r'pg_hba\.conf rejects .*?host "(?P<host>[^"]+)"',
            f"a line of pg_hba.conf rejects {WHO}, and this one must be above it", ACCESS),
    Refusal(r'database ".*" does not exist', "the database does not exist",
            _dsn("… dbname=<GitLab's, usually gitlabhq_production>")),
    Refusal(r"permission denied for database", "the role may not connect to the database",
            _sql("GRANT CONNECT ON DATABASE {database} TO {role};")),
    Refusal(r"permission denied to start WAL sender|must be superuser or replication role",
            "the role may not replicate", _sql("ALTER ROLE {role} REPLICATION;")),
    Refusal(r"exceeds max_wal_senders", "all WAL senders are in use",
            _sql("ALTER SYSTEM SET max_wal_senders = 10;  -- more than now; then restart "
                 "PostgreSQL"), may_pass=True),
    Refusal(r"too many connections for role", "the role has too many connections",
            _sql("ALTER ROLE {role} CONNECTION LIMIT -1;"), may_pass=True),
    Refusal(r"too many clients|remaining connection slots are reserved",
            "all connections are in use; try again, or raise max_connections", is_outage=True),
    Refusal(r"server does not support SSL",
            "the server does not speak TLS, which the connection string asks for",
            _sql("ALTER SYSTEM SET ssl = on;  -- with ssl_cert_file and ssl_key_file")),
    Refusal(r"root certificate file .* does not exist|could not load system root",
            "the file of the CA's certificate is missing", CA),
    Refusal(r"certificate verify failed|unable to get local issuer",
            "its certificate is not of a trusted CA", CA),
    Refusal(r"server certificate for .* does not match host name",
            "its certificate is for another host name",
            _dsn("host=<the name in the certificate> …")),
    Refusal(r"certificate authentication failed|valid client certificate|certificate required",
            "it wants a client certificate", _dsn("… sslcert=<file> sslkey=<file>")),
)  # fmt: skip


class Refused(NamedTuple):
    """A connection that failed; an outage may end by itself."""

    finding: Finding
    is_outage: bool
    may_pass: bool = False


def explain(message: str, target: Target) -> Refused:
    """Return a sentence for libpq's message, and what mends it."""
    for refusal in REFUSALS:
        if match := re.search(refusal.pattern, message, re.IGNORECASE | re.DOTALL):
            verb = "cannot be reached" if refusal.is_outage else "refuses the bridge"
            reason = refusal.sentence.format(user=target.user, base=target.database)
            sentence = f"PostgreSQL at {target.place} {verb}: {reason}."
            remedies = _filled(refusal, target, match.groupdict(""))
            return Refused(Finding(sentence, remedies), refusal.is_outage, refusal.may_pass)
    return Refused(Finding(f"PostgreSQL at {target.place} cannot be used: {message}"), True)


def _filled(refusal: Refusal, target: Target, found: Mapping[str, str]) -> tuple[Remedy, ...]:
    parts = {
        "role": name(target.user).as_string(),
        "database": name(target.database).as_string(),
        "access": _access(target, found["host"]) if "host" in found else "",
    }
    return tuple(Remedy(place, text.format_map(parts)) for place, text in refusal.remedies)


def _access(target: Target, host: str) -> str:
    """Write the line of pg_hba.conf that admits this role from this address, with TLS alone."""
    who = f"{target.database} {target.user}"
    if host == "[local]":  # a Unix socket
        return f"local {who} scram-sha-256"
    return f"hostssl {who} {host}/{128 if ':' in host else 32} scram-sha-256"
