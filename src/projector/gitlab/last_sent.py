"""The mark in heartbeats: the name of the state that sent last, and its last event.

A state that was put back from a backup does not know what was sent since. What GitLab has removed
meanwhile would be removed by nobody.
"""

import json
import time
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import SOURCES

SOURCE: Final = "gitlab"
# An attribute of CloudEvents that workers ignore.
ATTRIBUTE: Final = "bridgestate"
REQUEST_TIMEOUT_MS: Final = 5000
POLL_MS: Final = 500
# Heartbeats go on while a bridge or another source lives: the reading ends after this time.
LIVE_S: Final = 2.0
# Heartbeats of other sources may lie between: ever more are read, up to the beginning.
FIRST_RECORDS: Final = 200
MORE: Final = 10


class LastSent(NamedTuple):
    """The name of a state, and the number of the last event that it had remembered."""

    state: str
    number: int

    def __str__(self) -> str:
        return f"{self.state}-{self.number}"

    @classmethod
    def parse(cls, value: bytes | None) -> Self | None:
        """Read the mark of a heartbeat; None where there is none."""
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            state, _, number = json.loads(value or b"")[ATTRIBUTE].partition("-")
            return cls(state, int(number))
        return None


async def read_last_sent(settings: Settings) -> LastSent | None:
    """Read the mark of the last heartbeat that has one; raises `KafkaError`."""
    async with kafka.open_consumer(
        settings, "gitlab", request_timeout_ms=REQUEST_TIMEOUT_MS
    ) as consumer:
        place = TopicPartition(settings.topic(SOURCES), 0)
        consumer.assign([place])
        begin = (await consumer.beginning_offsets([place]))[place]
        end = (await consumer.end_offsets([place]))[place]
        count = FIRST_RECORDS
        while True:
            start = max(begin, end - count)
            if (found := await _last(consumer, place, start, end)) or start == begin:
                return found
            count *= MORE


async def _last(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int
) -> LastSent | None:
    """Read from `start` to the end, and a little further: a broker may name too low an end."""
    found: LastSent | None = None
    reached: float | None = None
    consumer.seek(place, start)
    while True:
        polled: dict[Any, Any] = await consumer.getmany(timeout_ms=POLL_MS)
        records = polled.get(place, [])
        for record in records:
            if record.key == SOURCE.encode():
                found = LastSent.parse(record.value) or found
        if await consumer.position(place) >= end:
            reached = reached or time.monotonic()
            if not records or time.monotonic() - reached > LIVE_S:
                return found
