"""How this product connects to Redis, on the write and on the read side alike."""

from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from projector.settings import Settings
from projector.views import MAX_PARTITIONS

TIMEOUT_S: Final = 2.0
# Each partition's owner uses two at most, and one worker may own them all.
MAX_CONNECTIONS: Final = 2 * MAX_PARTITIONS


def redis(settings: Settings) -> Redis:
    """A client that gives up after two seconds; whoever calls it decides about trying again."""
    return Redis.from_url(
        settings.redis_url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
        max_connections=MAX_CONNECTIONS,
    )
