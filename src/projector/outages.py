"""Kafka or Redis away: told apart from everything else, outlasted, and said once."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception_type,
    wait_exponential_jitter,
)

from projector import access
from projector.access import AccessError
from projector.errors import NotReadyError

log = structlog.get_logger()
T = TypeVar("T")

OUTAGES: Final = (RedisError, KafkaError, OSError, TimeoutError)


def _reason(state: RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    if reason := access.redis_reason(error):
        return f"Redis {reason}"
    return str(error) or repr(error)


def _complain(state: RetryCallState) -> None:
    """Warn at the first attempt and then ever more rarely: an outage is one fact."""
    attempt = state.attempt_number
    if attempt & (attempt - 1) == 0:
        partition = getattr(state.args[0], "partition", None) if state.args else None
        log.warning(
            "outage, trying again", partition=partition, reason=_reason(state), attempt=attempt
        )


# For methods whose work may be done again from the start.
outlast = retry(
    retry=retry_if_exception_type(OUTAGES),
    wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.05),
    before_sleep=_complain,
)


async def wait_until_ready(name: str, place: str, reach: Callable[[], Awaitable[T]]) -> T:
    """Try until `reach` succeeds, and say which server does not answer and where it should be.

    A server that answers but refuses this product is not waited for: raises `AccessError`.
    """

    def complain(state: RetryCallState) -> None:
        log.warning(f"{name} is not ready, trying again", place=place, reason=_reason(state))

    @retry(
        retry=retry_if_exception_type((*OUTAGES, NotReadyError)),
        wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
        before_sleep=complain,
    )
    async def attempt() -> T:
        try:
            return await reach()
        except RedisError as error:
            if reason := access.redis_reason(error):
                raise AccessError(f"Redis at {place} {reason}") from None
            raise

    return await attempt()
