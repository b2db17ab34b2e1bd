"""What may stand in the URL of Redis: one server, the sentinels that know it, or a cluster."""

import re
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from projector.config.env import variable_name

_DATABASE: Final = re.compile(r"/?|/[0-9]{1,9}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_SERVICE: Final = re.compile(r"/([A-Za-z0-9._-]+)(?:/([0-9]{0,9}))?")
_SERVERS: Final = ("redis", "rediss", "unix")
_SEVERAL: Final = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_BEGINNING: Final = (
    "must begin with redis://, rediss:// or unix://, or with redis+sentinel://, "
    "rediss+sentinel://, redis+cluster:// or rediss+cluster://"
)


class Several(NamedTuple):
    """Where to ask for the server, or for those of a cluster; `identity` is for who is asked."""

    kind: Literal["sentinel", "cluster"]
    hosts: list[tuple[str, int]]
    identity: dict[str, str]
    service: str
    database: int


def refuse_wrong(url: str) -> None:
    """Raise `ValueError` that says what is wrong, and shows nothing of the URL."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in _SEVERAL:
            parts.port  # noqa: B018  raises
    except ValueError:
        raise ValueError("is no URL; percent-encode what is special in a password") from None
    if parts.scheme not in _SERVERS + _SEVERAL:
        raise ValueError(_BEGINNING)
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("must have the characters / ? # and @ of a password percent-encoded")
    if parts.scheme in _SERVERS and parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ValueError("must end with the number of a database, as in redis://host:6379/0")
    if not url.startswith(f"{parts.scheme}://"):
        raise ValueError(f"{_BEGINNING}, in lower case")
    _refuse_options(parts)
    several(url)


def _refuse_options(parts: SplitResult) -> None:
    found = options(parts)
    if any(name.startswith("ssl") for name in found):
        raise ValueError(
            "must have no options for TLS; certificates are always checked, and "
            f"{variable_name('redis_ca_file')} says who may sign them"
        )
    if parts.scheme in _SEVERAL and (parts.query or parts.fragment):
        raise ValueError("must have no options with sentinels or a cluster")
    if unknown := sorted(found.keys() - {"username", "password", "db"}):
        raise ValueError(f"must have no option {unknown[0]!r}; username, password and db may be")
    if not _NUMBER.fullmatch(found.get("db", "0")):
        raise ValueError("must have the number of a database as its db")


def options(parts: SplitResult) -> dict[str, str]:
    """What follows the question mark."""
    return dict(parse_qsl(parts.query, keep_blank_values=True))


def several(url: str) -> Several | None:
    """Whom to ask for the servers; None where the URL is that of the one server."""
    parts = urlsplit(url)
    match parts.scheme.partition("+")[2]:
        case "sentinel":
            service, database = _service(parts.path)
            return Several("sentinel", _hosts(parts), _identity(parts), service, database)
        case "cluster":
            if parts.path not in ("", "/", "/0"):
                raise ValueError("must name no database: a cluster has only 0")
            return Several("cluster", _hosts(parts), _identity(parts), "", 0)
    return None


def _service(path: str) -> tuple[str, int]:
    found = _SERVICE.fullmatch(path)
    if found is None:
        raise ValueError(
            "must end with the name by which the sentinels know the server, and with the number "
            "of a database if it is not 0, as in redis+sentinel://host:26379/mymaster/0"
        )
    return found.group(1), int(found.group(2) or 0)


def _hosts(parts: SplitResult) -> list[tuple[str, int]]:
    return [_host(each) for each in parts.netloc.rpartition("@")[2].split(",")]


def _host(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("must have host:port, comma-separated for more than one")
    return host.strip("[]"), int(port)


def _identity(parts: SplitResult) -> dict[str, Any]:
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    found = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in found.items() if value}
