"""Connection strings for GitLab's databases: checked, completed, and shown without secrets."""

import re
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Final, Literal

import psycopg
from psycopg import conninfo, pq
from pydantic import SecretStr

from projector.config.env import GITLAB, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.errors import SettingsError

Database = Literal["main", "ci"]

# A server that has vanished is noticed within half a minute, not after the hours of TCP's defaults.
_DEFAULTS: Final = {
    "application_name": "projector",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# The bridge sets these itself, for some of its connections.
_RESERVED: Final = ("replication", "options", "client_encoding")
_UNKNOWN: Final = re.compile(r'invalid (?:connection option|URI query parameter:) "(\w+)"')


def connection_strings(settings: GitlabSettings) -> dict[Database, str]:
    """Return the connection string of each database, with the password of its own setting.

    Raises `SettingsError` that names the setting, and never quotes it.
    """
    strings: dict[Database, SecretStr | None] = {
        "main": settings.database, "ci": settings.ci_database,
    }  # fmt: skip
    return {
        database: _completed(variable, text.get_secret_value(), settings)
        for (database, text), variable in zip(
            strings.items(), ("database", "ci_database"), strict=True
        )
        if text is not None
    }


def _completed(field: str, text: str, settings: GitlabSettings) -> str:
    name = variable_name(GITLAB + field)
    try:
        parts = conninfo.conninfo_to_dict(text)
    except psycopg.ProgrammingError as error:  # it quotes the text, perhaps the password
        raise SettingsError(
            f"{name}: is not a connection string of PostgreSQL; {_misspelt(str(error))}write "
            "`host=... dbname=... user=...`, values with spaces in single quotes, or a URL whose "
            "password has its special characters percent-encoded"
        ) from None
    for reserved in _RESERVED:
        if reserved in parts:
            raise SettingsError(f"{name}: must not set `{reserved}`; leave it out")
    if settings.secret and "password" in parts:
        password = "password_file" if settings.password_file else "password"
        raise SettingsError(f"{variable_name(GITLAB + password)}: {name} has a password as well")
    if settings.secret:
        parts["password"] = settings.secret.get_secret_value()
    if "," in str(parts.get("host", "")):
        parts.setdefault("target_session_attrs", "primary")
    return conninfo.make_conninfo("", **{**_DEFAULTS, **parts})


def _misspelt(message: str) -> str:
    """Name an unknown option that resembles a known one. Any other may be part of a password."""
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    found = _UNKNOWN.search(message)
    meant = get_close_matches(found[1], known, 1, cutoff=0.75) if found else []
    return f"`{found[1]}` is no option, `{meant[0]}` is; " if found and meant else ""


def place(connection_string: str) -> str:
    """Return host, port and database for messages, without user and password."""
    parts = conninfo.conninfo_to_dict(connection_string)
    hosts = str(parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = str(parts.get("port") or "5432").split(",")
    ports += ports[-1:] * (len(hosts) - len(ports))
    named = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    return f"{named}/{parts.get('dbname') or parts.get('user') or ''}"


def is_exposed(connection_string: str) -> bool:
    """Whether someone on the way to PostgreSQL could read, or answer in its place."""
    parts = conninfo.conninfo_to_dict(connection_string)
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    return parts.get("sslmode") != "verify-full" and not all(map(_is_here, hosts))


def _is_here(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
