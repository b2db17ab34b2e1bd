"""The URL of Redis: the servers that it names, and who this client is to them."""

import pytest
from pydantic_core import MultiHostUrl

from projector.config.redis_url import RedisTopology, parse_topology, refuse_wrong_url

SECRET = "hunter2-glcbt"


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://:p@h:1/0", "redis://h:1/0?db=3", "unix:///run/redis.sock?db=1",
            f"unix://u:{SECRET}@/run/redis.sock"],
)  # fmt: skip
def test_one_server_has_no_topology(url: str) -> None:
    """redis-py reads such a URL itself."""
    refuse_wrong_url(url)
    assert parse_topology(url) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis+sentinel://a:1,b:2/main", ("sentinel", [("a", 1), ("b", 2)], {}, "main", 0)),
        ("rediss+sentinel://a:1/main/3", ("sentinel", [("a", 1)], {}, "main", 3)),
        ("redis+cluster://A.Example:1", ("cluster", [("A.Example", 1)], {}, "", 0)),
        ("redis+cluster://h:1,[::1]:6380/0", ("cluster", [("h", 1), ("::1", 6380)], {}, "", 0)),
        ("redis+cluster://bücher:1/", ("cluster", [("bücher", 1)], {}, "", 0)),
    ],
)
def test_hosts_and_ports_are_those_of_the_url(
    url: str, expected: tuple[str, list[tuple[str, int]], dict[str, str], str, int]
) -> None:
    refuse_wrong_url(url)
    assert parse_topology(url) == expected


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("u:p@", {"username": "u", "password": "p"}),
        (":p@", {"password": "p"}),
        ("u@", {"username": "u"}),
        (":@", {}),
        ("us%40er:p%2F%40%25@", {"username": "us@er", "password": "p/@%"}),
        ("u:p@w:x@", {"username": "u", "password": "p@w:x"}),
        # A comma is not special in a user or a password; between hosts it is.
        ("u,v:a,b@", {"username": "u,v", "password": "a,b"}),
        ("u:é@", {"username": "u", "password": "é"}),
    ],
)
def test_user_and_password_are_decoded(identity: str, expected: dict[str, str]) -> None:
    url = f"redis+cluster://{identity}a:1,b:2"
    refuse_wrong_url(url)
    assert parse_topology(url) == RedisTopology(
        "cluster", [("a", 1), ("b", 2)], expected, "", 0
    )  # fmt: skip


@pytest.mark.parametrize(
    "hosts", ["", "h", "h:", "h:0", "h:65536", "h:x", ":1", "h:1,", "h:1,,i:2", "h:1,i", "[::1]"]
)
def test_every_host_needs_a_port(hosts: str) -> None:
    with pytest.raises(ValueError, match=r"^must have host:port, comma-separated"):
        refuse_wrong_url(f"redis+cluster://:{SECRET}@{hosts}")


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_one_server_needs_a_port_that_machines_have(port: str) -> None:
    with pytest.raises(ValueError, match=r"^must have a port from 1 to 65535$"):
        refuse_wrong_url(f"redis://:{SECRET}@h:{port}/0")


def test_what_pydantic_says_about_a_url_is_not_passed_on() -> None:
    """Its errors hold their input, and a traceback would show the cause."""
    url = f"redis+cluster://:{SECRET}@h:x"
    with pytest.raises(ValueError, match="valid URL") as pydantics:
        MultiHostUrl(url)
    assert SECRET in repr(pydantics.value)
    with pytest.raises(ValueError, match="must have host:port") as ours:
        refuse_wrong_url(url)
    assert (ours.value.__cause__, ours.value.__context__) == (None, None)
