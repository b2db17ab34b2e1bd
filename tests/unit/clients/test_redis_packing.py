"""Commands are packed in C, into the bytes that redis-py would send."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Connection

from projector.clients import redis_client
from projector.clients.redis_packing import packing_in_c
from tests.unit.config.environment import load

names = st.sampled_from(["GET", "EVALSHA", "SCRIPT LOAD", "CLUSTER SLOTS"])
arguments = st.lists(
    st.binary() | st.text(st.characters(exclude_categories=["Cs"])) | st.integers()
)


@given(names, arguments)
def test_a_command_is_packed_as_redis_py_packs_it(name: str, args: list[Any]) -> None:
    fast, plain = packing_in_c(Connection)(), Connection()
    assert b"".join(fast.pack_command(name, *args)) == b"".join(plain.pack_command(name, *args))
    assert b"".join(fast.pack_commands([(name, *args)] * 2)) == 2 * b"".join(
        plain.pack_command(name, *args)
    )


@pytest.mark.parametrize(
    "url", ["redis://a", "unix:///tmp/redis", "redis+sentinel://a:1/main", "redis+cluster://a:1"]
)
async def test_connections_of_every_kind_pack_in_c(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    redis: Any = redis_client.create_redis(load(monkeypatch, {"REDIS_URL": url}))
    if "cluster" in url:
        connection = redis.startup_nodes[0].acquire_connection()
    else:
        connection = redis.connection_pool.make_connection()
    assert type(connection).pack_command is not Connection.pack_command
    await redis.aclose()
