"""Reasons why PostgreSQL cannot be reached, or refuses the bridge, with what mends them."""

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from projector.config.env import GITLAB, variable_name
from projector.gitlab.findings import (
    ACCESS_FILE,
    ENVIRONMENT,
    SQL,
    Finding,
    Remedy,
    name,
    statement,
)

DATABASE: Final = variable_name(GITLAB + "database")
PASSWORD: Final = variable_name(GITLAB + "password_file")


class Target(NamedTuple):
    """The connection that was tried; `place` has no secrets."""

    place: str
    user: str
    database: str


Found = Mapping[str, str]


class Refusal(NamedTuple):
    """A message of libpq or PostgreSQL, and its explanation."""

    pattern: str
    sentence: str
    remedies: Callable[[Target, Found], tuple[Remedy, ...]]
    is_outage: bool = False


def _none(target: Target, found: Found) -> tuple[Remedy, ...]:
    return ()


def _variable(text: str) -> Callable[[Target, Found], tuple[Remedy, ...]]:
    return lambda target, found: (Remedy(ENVIRONMENT, text),)


def _password(target: Target, found: Found) -> tuple[Remedy, ...]:
    return (
        Remedy(SQL, f"\\password {name(target.user).as_string()}"),
        Remedy(ENVIRONMENT, f"{PASSWORD}=<a file with that password>"),
    )


def _role(target: Target, found: Found) -> tuple[Remedy, ...]:
    text = statement("CREATE ROLE {role} LOGIN REPLICATION;", role=name(target.user))
    return (Remedy(SQL, text),)


def _login(target: Target, found: Found) -> tuple[Remedy, ...]:
    return (Remedy(SQL, statement("ALTER ROLE {role} LOGIN;", role=name(target.user))),)


def _replication(target: Target, found: Found) -> tuple[Remedy, ...]:
    return (Remedy(SQL, statement("ALTER ROLE {role} REPLICATION;", role=name(target.user))),)


def _access(target: Target, found: Found) -> tuple[Remedy, ...]:
    """Write the line that admits this role from this address to this database."""
    encrypted = "no encryption" not in found["rest"] and "SSL off" not in found["rest"]
    bits = 128 if ":" in found["host"] else 32
    line = (
        f"{'hostssl' if encrypted else 'host'} {target.database} {target.user} "
        f"{found['host']}/{bits} scram-sha-256"
    )
    reload = Remedy(SQL, "SELECT pg_reload_conf();")
    return Remedy(ACCESS_FILE, line), reload


def _connect_right(target: Target, found: Found) -> tuple[Remedy, ...]:
    grant = "GRANT CONNECT ON DATABASE {database} TO {role};"
    parts = {"database": name(target.database), "role": name(target.user)}
    return (Remedy(SQL, statement(grant, **parts)),)


def _limit(target: Target, found: Found) -> tuple[Remedy, ...]:
    text = statement("ALTER ROLE {role} CONNECTION LIMIT -1;", role=name(target.user))
    return (Remedy(SQL, text),)


def _senders(target: Target, found: Found) -> tuple[Remedy, ...]:
    text = "ALTER SYSTEM SET max_wal_senders = 10;  -- more than now; then restart PostgreSQL"
    return (Remedy(SQL, text),)


# The first that matches; libpq's and PostgreSQL's texts of 14 to 17, in English.
REFUSALS: Final = (
    Refusal(r"could not translate host name|Name or service not known",
            "the host name is unknown", _variable(f"{DATABASE}=host=<another> …"), True),
    Refusal(r"Connection refused|No such file or directory\s+Is the server running",
            "nothing listens there; correct host and port, start PostgreSQL, or let it listen "
            "(listen_addresses)", _variable(f"{DATABASE}=host=… port=… …"), True),
    Refusal(r"timeout expired|timed out|No route to host|Network is unreachable",
            "there is no answer; correct host and port, or open the firewall",
            _variable(f"{DATABASE}=host=… port=… …"), True),
    Refusal(r"is (starting up|shutting down|in recovery mode)|not yet accepting connections",
            "it is starting or stopping; try again", _none, True),
    Refusal(r"is in hot standby mode|session is (not )?read-",
            "no server there is the primary", _variable(f"{DATABASE}=host=<the primary> …"), True),
    Refusal(r"unsupported startup parameter",
            "something like PgBouncer is between, and replication does not pass it; connect to "
            "PostgreSQL itself", _variable(f"{DATABASE}=host=… port=<PostgreSQL's own> …")),
    Refusal(r"password authentication failed|no password supplied",
            "the password is wrong or missing", _password),
    Refusal(r'role ".*" does not exist', "the role does not exist", _role),
    Refusal(r"is not permitted to log in", "the role may not log in", _login),
    Refusal(r'no pg_hba\.conf entry for (replication connection from )?host "(?P<host>[^"]+)"'
            r"(?P<rest>.*)", "pg_hba.conf does not admit the role from here", _access),
    Refusal(r"pg_hba\.conf rejects .*host \"(?P<host>[^\"]+)\"(?P<rest>.*)",
            "a line of pg_hba.conf rejects the role; this one must be above it", _access),
    Refusal(r'database ".*" does not exist', "the database does not exist",
            _variable(f"{DATABASE}=… dbname=<GitLab's, usually gitlabhq_production>")),
    Refusal(r"permission denied for database", "the role may not connect to the database",
            _connect_right),
    Refusal(r"permission denied to start WAL sender|must be superuser or replication role",
            "the role may not replicate", _replication),
    Refusal(r"exceeds max_wal_senders", "all WAL senders are in use", _senders),
    Refusal(r"too many connections for role", "the role has too many connections", _limit),
    Refusal(r"too many clients|remaining connection slots are reserved",
            "all connections are in use; try again, or raise max_connections", _none, True),
    Refusal(r"server does not support SSL",
            "the server does not speak TLS, which the connection string asks for",
            lambda target, found: (
                Remedy(SQL, "ALTER SYSTEM SET ssl = on;  -- with ssl_cert_file and ssl_key_file"),
            )),
    Refusal(r"root certificate file .* does not exist|could not load system root",
            "the file of the CA's certificate is missing",
            _variable(f"{DATABASE}=… sslrootcert=<file with the CA's certificate>")),
    Refusal(r"certificate verify failed|SSL error: unregistered|unable to get local issuer",
            "its certificate is not of a trusted CA",
            _variable(f"{DATABASE}=… sslrootcert=<file with the CA's certificate>")),
    Refusal(r"server certificate for .* does not match host name",
            "its certificate is for another host name",
            _variable(f"{DATABASE}=host=<the name in the certificate> …")),
    Refusal(r"certificate (authentication failed|required)|requires a valid client certificate",
            "it wants a client certificate",
            _variable(f"{DATABASE}=… sslcert=<file> sslkey=<file>")),
)  # fmt: skip


class Refused(NamedTuple):
    """A connection that failed; an outage may end by itself."""

    finding: Finding
    is_outage: bool


def explain(message: str, target: Target) -> Refused:
    """Return a sentence for libpq's message, and what mends it."""
    for refusal in REFUSALS:
        if match := re.search(refusal.pattern, message, re.IGNORECASE | re.DOTALL):
            found = {key: value or "" for key, value in match.groupdict().items()}
            verb = "cannot be reached" if refusal.is_outage else "refuses the bridge"
            sentence = f"PostgreSQL at {target.place} {verb}: {refusal.sentence}."
            return Refused(
                Finding(sentence, refusal.remedies(target, found)), refusal.is_outage
            )
    return Refused(Finding(f"PostgreSQL at {target.place} cannot be used: {message}"), True)
