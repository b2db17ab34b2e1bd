"""The URL of Redis: one server, the sentinels that name it, or the nodes of a cluster."""

import re
from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic_core import MultiHostUrl, ValidationError

from projector.config.env import variable_name

_DATABASE: Final = re.compile(r"/?|/[0-9]{1,9}")
_HOSTS: Final = re.compile(r"[^/?#]*")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_SERVICE: Final = re.compile(r"/([A-Za-z0-9._-]+)(?:/([0-9]{0,9}))?")
_ONE_SERVER: Final = ("redis", "rediss", "unix")
_TOPOLOGIES: Final = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_PORT: Final = "must have a port from 1 to 65535"
_BEGINNING: Final = (
    "must begin with redis://, rediss:// or unix://, or with redis+sentinel://, "
    "rediss+sentinel://, redis+cluster:// or rediss+cluster://"
)


class RedisTopology(NamedTuple):
    """The sentinels of a server, or nodes of a cluster; `identity` is for these `hosts`."""

    kind: Literal["sentinel", "cluster"]
    hosts: list[tuple[str, int]]
    identity: dict[str, str]
    service: str
    database: int


def refuse_wrong_url(url: str) -> None:
    """Raise `ValueError` with a reason that shows nothing of the URL."""
    try:
        parts = split_url(url)
        port = None if parts.scheme in _TOPOLOGIES else parts.port
    except ValueError as error:
        if "out of range" in str(error):
            raise ValueError(_PORT) from None
        raise ValueError("is not a URL; percent-encode special characters of a password") from None
    if port == 0:
        raise ValueError(_PORT)
    if parts.scheme not in _ONE_SERVER + _TOPOLOGIES:
        raise ValueError(_BEGINNING)
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("must have the characters / ? # and @ of a password percent-encoded")
    if parts.scheme in ("redis", "rediss") and not _DATABASE.fullmatch(parts.path):
        raise ValueError("must end with the number of a database, as in redis://host:6379/0")
    if not url.startswith(f"{parts.scheme}://"):
        raise ValueError(f"{_BEGINNING}, in lower case")
    _refuse_options(parts)
    parse_topology(url)


def split_url(url: str) -> SplitResult:
    """Split the URL of one server, of sentinels or of a cluster; raises `ValueError`."""
    scheme, _, rest = url.partition("://")
    if scheme not in _TOPOLOGIES:
        return urlsplit(url)
    # Python 3.14 refuses an IPv6 address behind a comma.
    hosts = rest[: len(rest) - len(_HOSTS.sub("", rest, count=1))]
    return urlsplit(f"{scheme}://{rest[len(hosts) :]}")._replace(netloc=hosts)


def _refuse_options(parts: SplitResult) -> None:
    found = url_options(parts)
    if any(name.startswith("ssl") for name in found):
        raise ValueError(
            "must not have options for TLS; certificates are always checked, and "
            f"{variable_name('redis_ca_file')} names the CAs that may sign them"
        )
    if parts.scheme in _TOPOLOGIES and (parts.query or parts.fragment):
        raise ValueError("must not have options with sentinels or a cluster")
    if unknown := sorted(found.keys() - {"username", "password", "db"}):
        raise ValueError(f"must not have the option {unknown[0]!r}; only username, password and db")
    if not _NUMBER.fullmatch(found.get("db", "0")):
        raise ValueError("must have the number of a database as its db")


def url_options(parts: SplitResult) -> dict[str, str]:
    """Return the options of the query."""
    return dict(parse_qsl(parts.query, keep_blank_values=True))


def url_identity(url: str) -> dict[str, str]:
    """Return the user and the password for Redis in the URL; those for sentinels are left out."""
    parts = split_url(url)
    if parts.scheme.endswith("+sentinel"):
        return {}
    given = {"username": parts.username, "password": parts.password}
    options = url_options(parts)
    # As redis-py does, which prefers those before the host.
    return {name: options[name] for name in given.keys() & options.keys()} | {
        name: value for name, value in given.items() if value
    }


def parse_topology(url: str) -> RedisTopology | None:
    """Parse the URL of sentinels or of a cluster; None for the URL of one server."""
    parts = split_url(url)
    match parts.scheme.partition("+")[2]:
        case "sentinel":
            service, database = _parse_service(parts.path)
            return RedisTopology("sentinel", *_parse_hosts(url), service, database)
        case "cluster":
            if parts.path not in ("", "/", "/0"):
                raise ValueError("must not name a database: a cluster has only 0")
            return RedisTopology("cluster", *_parse_hosts(url), "", 0)
    return None


def _parse_service(path: str) -> tuple[str, int]:
    found = _SERVICE.fullmatch(path)
    if found is None:
        raise ValueError(
            "must end with the name by which the sentinels know the server, and with the number "
            "of a database if it is not 0, as in redis+sentinel://host:26379/mymaster/0"
        )
    return found.group(1), int(found.group(2) or 0)


def _parse_hosts(url: str) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """Return the hosts with their ports, and the user and password for them, if there are any."""
    # pydantic would begin another host at a comma of a password.
    identity, at, rest = url.rpartition("@")
    try:
        parsed = MultiHostUrl(identity.replace(",", "%2C") + at + rest).hosts()
    except ValidationError:
        parsed = []
    hosts = [(unquote(h["host"] or "").strip("[]"), h["port"] or 0) for h in parsed]
    if not hosts or not all(host and port for host, port in hosts):
        raise ValueError("must have host:port, comma-separated for more than one")
    given = {"username": parsed[0]["username"], "password": parsed[0]["password"]}
    return hosts, {name: unquote(value) for name, value in given.items() if value}
