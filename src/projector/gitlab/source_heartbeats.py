"""Heartbeats of the source `gitlab`: each vouches for what was looked at since the one before."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import structlog
from aiokafka import AIOKafkaProducer

from projector.clients.retry import LONGEST_PAUSE_S, OUTAGES, Call
from projector.config.settings import Settings
from projector.events.model import HEARTBEAT, SOURCES
from projector.feed.producer import CONTENT_TYPE
from projector.gitlab import metrics
from projector.gitlab.last_sent import ATTRIBUTE, SOURCE, LastSent
from projector.gitlab.sender import Sender, create_producer, discard_producer

log = structlog.get_logger()

# In a record of the topic, it has one partition.
ONLY_PARTITION: Final = 0

# Returns the number of the last event in the outbox once all is in it that had happened in
# GitLab's database by the call.
Look = Callable[[], Awaitable[int]]


class SourceHeartbeats:
    """Sends heartbeats, one at a time.

    A round: the heartbeat before is acknowledged; the source is looked at; all that was found is
    acknowledged; the next heartbeat is sent. It names the one before, `after`.
    """

    def __init__(
        self, settings: Settings, sender: Sender, look: Look, interval_s: float, state: str
    ) -> None:
        self._settings = settings
        self._topic = settings.topic(SOURCES)
        self._sender = sender
        self._look = look
        self._interval_s = interval_s
        # The name of the state, which each heartbeat has.
        self._state = state
        self._call = Call(None)
        self._after: int | None = None
        self._sent_at = self._vouched_at = time.monotonic()
        metrics.LAG.set_function(lambda: time.monotonic() - self._vouched_at)

    async def run(self) -> NoReturn:
        """Send until cancelled, through all outages of Kafka."""
        pause = self._interval_s
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._run_session()
                except OUTAGES as error:
                    again = time.monotonic() - began < LONGEST_PAUSE_S
                    pause = min(LONGEST_PAUSE_S, 2 * pause) if again else self._interval_s
                    self._call.fail(error, pause, "Kafka")
                    # Its mark would hide that of a bridge that has begun to send meanwhile.
                    self._sender.doubt()
                await asyncio.sleep(pause)
        finally:
            self._call.end(gave_up=True)

    async def claim(self) -> None:
        """Send a heartbeat that vouches for nothing: its mark is that of the last to send."""
        producer = create_producer(self._settings, "gitlab-heartbeats")
        try:
            await producer.start()
            await self._send(producer)
        finally:
            await discard_producer(producer)

    async def _run_session(self) -> None:
        """Send until the sender begins a new session; the first heartbeat vouches for nothing."""
        await self._sender.until(lambda: self._sender.ready)
        session, self._after = self._sender.session, None
        producer = create_producer(self._settings, "gitlab-heartbeats")
        try:
            await producer.start()
            await self._send(producer)
            while session == self._sender.session:
                # First the pause: a look is best made just before its heartbeat.
                await asyncio.sleep(self._sent_at + self._interval_s - time.monotonic())
                await self._round(producer, session)
        finally:
            await discard_producer(producer)

    async def _round(self, producer: AIOKafkaProducer, session: int) -> None:
        looked_at = time.monotonic()
        number = await self._look()
        await self._sender.until_acknowledged(number)
        # A new session has asked for the ends anew: so must this one begin anew.
        if self._sender.ready and session == self._sender.session:
            vouches = self._after is not None
            await self._send(producer)
            self._vouched_at = looked_at if vouches else self._vouched_at

    async def _send(self, producer: AIOKafkaProducer) -> None:
        value = json.dumps(self._event()).encode()
        self._sent_at = time.monotonic()
        record = await producer.send_and_wait(
            self._topic, value, SOURCE.encode(), ONLY_PARTITION, headers=[CONTENT_TYPE]
        )
        self._call.end()
        earlier = -1 if self._after is None else self._after
        # Without an offset, or in a topic that was made anew, it is no heartbeat to name.
        self._after = record.offset if record.offset > earlier else None

    def _event(self) -> dict[str, Any]:
        data = {"source": SOURCE, "after": self._after, "offsets": self._sender.offsets}
        return {
            "specversion": "1.0", "id": str(uuid.uuid4()), "source": f"/{SOURCE}",
            "type": HEARTBEAT, "data": data,
            ATTRIBUTE: str(LastSent(self._state, self._sender.last_number)),
        }  # fmt: skip
