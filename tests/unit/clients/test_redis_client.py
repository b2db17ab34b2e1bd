"""Clients of Redis: who is asked as whom, and whose certificates are trusted."""

from typing import Any

import pytest
from redis.asyncio.cluster import ClusterNode

from projector.clients import redis_client
from tests.unit.config.environment import SECRET, load


def test_redis_is_told_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"REDIS_USERNAME": "worker", "REDIS_PASSWORD": SECRET})
    how = redis_client.create_redis(settings).connection_pool.connection_kwargs
    assert (how["username"], how["password"]) == ("worker", SECRET)


def test_a_user_in_the_settings_goes_with_a_password_in_the_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"redis://:{SECRET}@h:1/0"
    settings = load(monkeypatch, {"REDIS_URL": url, "REDIS_USERNAME": "worker"})
    how = redis_client.create_redis(settings).connection_pool.connection_kwargs
    assert (how["username"], how["password"]) == ("worker", SECRET)


async def test_sentinels_are_asked_as_the_url_says_and_the_server_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "redis+sentinel://watch:man%40@a:1,b:2/main/3"
    settings = load(
        monkeypatch, {"REDIS_URL": url, "REDIS_USERNAME": "worker", "REDIS_PASSWORD": SECRET}
    )
    redis = redis_client.create_redis(settings)
    pool = redis.connection_pool
    assert isinstance(pool, redis_client.SentinelPool)
    how = pool.connection_kwargs
    assert (how["username"], how["password"], how["db"]) == ("worker", SECRET, 3)
    assert pool.service_name == "main"
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("a", 1), ("b", 2)]
    assert {(each["username"], each["password"]) for each in asked} == {("watch", "man@")}
    await redis.aclose()


async def test_sentinels_get_no_password_that_is_not_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(
        monkeypatch, {"REDIS_URL": "redis+sentinel://a:1/main", "REDIS_PASSWORD": SECRET}
    )
    pool: Any = redis_client.create_redis(settings).connection_pool
    (asked,) = pool.sentinel_manager.sentinels
    assert asked.connection_pool.connection_kwargs.get("password") is None


async def test_sentinels_and_the_server_behind_are_trusted_alike(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    url = "rediss+sentinel://a:1/main"
    settings = load(monkeypatch, {"REDIS_URL": url, "REDIS_CA_FILE": pems["ca"]})
    pool: Any = redis_client.create_redis(settings).connection_pool
    (sentinel,) = pool.sentinel_manager.sentinels
    for each in (pool, sentinel.connection_pool):
        connection = each.make_connection()
        assert isinstance(connection, redis_client.TlsConnection)
        assert connection.ssl_context.get() is settings.redis_tls


async def test_every_server_of_a_cluster_is_told_the_same_and_trusted_alike(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    url = f"rediss+cluster://u:{SECRET}@a.example:1,b.example:2"
    settings = load(monkeypatch, {"REDIS_URL": url, "REDIS_CA_FILE": pems["ca"]})
    cluster: Any = redis_client.create_redis(settings)
    later = ClusterNode("c.example", 3, **cluster.connection_kwargs)
    assert [node.name for node in cluster.startup_nodes] == ["a.example:1", "b.example:2"]
    for node in (*cluster.startup_nodes, later):
        connection = node.acquire_connection()
        assert isinstance(connection, redis_client.TlsConnection)
        assert connection.ssl_context.get() is settings.redis_tls
        assert connection.redis_connect_func
        assert (connection.username, connection.password) == ("u", SECRET)
        assert connection.socket_timeout == redis_client.TIMEOUT_S
