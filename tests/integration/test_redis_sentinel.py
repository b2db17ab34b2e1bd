"""The product behind Redis Sentinel: failovers that the processes must notice."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients import redis_client
from projector.clients.redis_access import redis_reason
from projector.clients.redis_servers import RedisServers
from projector.config.settings import Settings
from tests import builders
from tests.integration.deployment import Deployment
from tests.integration.redis_servers import SentinelRedis, client
from tests.integration.servers import eventually
from tests.integration.test_end_to_end import COMPANY, STARTED, TOKEN

# These tests are about Redis: one kind of broker is enough.
pytestmark = pytest.mark.parametrize("kafka", ["embedded"], indirect=True)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[SentinelRedis]:
    with ExitStack() as stack:
        yield SentinelRedis(tmp_path, stack)


def test_after_a_failover_that_lost_a_revocation_it_holds_again(
    kafka: str, watched: SentinelRedis, tmp_path: Path
) -> None:
    primary, replica = watched.servers
    with Deployment(kafka, watched.ports[0], "sentinel.", tmp_path) as deployment:
        deployment.use_redis(watched.url)
        worker = deployment.start_all()
        deployment.feed(*COMPANY, STARTED)
        deployment.until_agents(TOKEN, 5)
        replica.signal(signal.SIGSTOP)
        client(watched.ports[0]).client_kill_filter(_type="replica")
        deployment.feed(builders.removed("agent", 5))
        deployment.until_agents(TOKEN)
        primary.kill()
        replica.signal(signal.SIGCONT)
        seen: set[int] = set()

        def failed_over() -> bool:
            seen.add(deployment.look_up(TOKEN).status)
            return watched.primary == watched.ports[1]

        eventually(failed_over, f"failed over: {watched.sentinel.log()}")
        deployment.until_agents(TOKEN)
        assert seen <= {200, 503}
        assert '"source": "memory"' in worker.log()
        deployment.feed(builders.agent(6, 123213), builders.started(10, 123213, token="second"))
        deployment.until_agents("second", 6)
        deployment.until("unknown", 401)


async def is_taken(redis: Redis, value: str) -> bool:
    """Return whether a write succeeds; during a failover sentinels may name a replica."""
    try:
        return bool(await redis.set("a", value))
    except RedisConnectionError:
        return False


async def test_a_primary_that_was_demoted_is_left(kafka: str, watched: SentinelRedis) -> None:
    """It still answers the clients that stay connected to it."""
    server = RedisServers()
    redis = redis_client.create_redis(Settings(redis_url=watched.url), server)
    await redis.set("a", "1")
    watched.fail_over()
    while not await is_taken(redis, "2"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert (await redis.info("server"))["tcp_port"] == watched.ports[1]
    assert server.changes == 1
    await redis.aclose()


async def test_why_there_is_no_primary_is_said(kafka: str, watched: SentinelRedis) -> None:
    unknown = redis_client.create_redis(Settings(redis_url=f"{watched.url}x"))
    with pytest.raises(RedisConnectionError, match="the sentinels do not name a primary"):
        await unknown.ping()
    await unknown.aclose()
    client(watched.sentinel_port).execute_command("ACL SETUSER default resetpass >secret")
    refused = redis_client.create_redis(Settings(redis_url=watched.url))
    with pytest.raises(AuthenticationError) as error:
        await refused.ping()
    assert "user and password" in str(redis_reason(error.value))
    await refused.aclose()
    url = watched.url.replace("://", "://:secret@")
    told = redis_client.create_redis(Settings(redis_url=url))
    assert await told.ping()
    await told.aclose()
