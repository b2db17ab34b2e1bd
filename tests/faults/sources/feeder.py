"""A feeder of its own process: sends a source's changes to Kafka, and heartbeats that vouch.

    python -m tests.faults.sources.feeder feed LOG STATE LAG_S KILL

sends the changes of the file LOG, each LAG_S after it looked for them, and notes in the file STATE
up to where Kafka has them. It kills itself at the moment that the file KILL names.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import EVENT_TYPES, Topic
from projector.events.partitioning import partition_of
from tests.faults.namespaces import Event
from tests.faults.sources.source import read_changes
from tests.faults.traffic import GIVE_UP_MS
from tests.heartbeat_sender import INTERVAL_S, HeartbeatSender
from tests.integration.deployment import PARTITIONS

# Moments in which a feeder may be killed: its events are on their way, acknowledged, or noted.
MOMENTS: Final = ("sent", "acknowledged", "noted")


class Feeder(HeartbeatSender):
    """Sends changes, then a heartbeat, four times a second."""

    def __init__(
        self, settings: Settings, log: Path, state: Path, lag_s: float, kill: Path
    ) -> None:
        (name,) = settings.source_names
        super().__init__(settings, PARTITIONS, name, self._send_changes)
        self._settings = settings
        self._log = log
        self._state = state
        self._lag_s = lag_s
        self._kill = kill
        # Read before Kafka is asked for the ends: all changes up to here lie below these.
        self._position = int(state.read_text()) if state.exists() else 0

    async def run(self) -> None:
        """Feed until killed."""
        await self.ask_ends()
        # One producer that waits long enough for a process that was stopped meanwhile.
        async with AIOKafkaProducer(
            **kafka.client_arguments(self._settings), acks="all", request_timeout_ms=GIVE_UP_MS
        ) as self._producer:
            while True:
                await self.send(self._producer)
                report("heartbeat", self.after)
                await asyncio.sleep(INTERVAL_S)
                await self._send_changes()

    async def _send_changes(self) -> None:
        """Look at the source; return once Kafka has all that had happened by then."""
        changes, position = read_changes(self._log, self._position)
        report("looked", self._position, len(changes))
        await asyncio.sleep(self._lag_s)
        # A job's first answer needs what the source had before it.
        await self._send([each for each in changes if topic_of(each) != Topic.JOB_LIFECYCLE])
        await self._send([each for each in changes if topic_of(each) == Topic.JOB_LIFECYCLE])
        self._die("acknowledged", changes)
        self._note(position)
        self._die("noted", changes)

    async def _send(self, events: list[Event]) -> None:
        acknowledgements = [await self._send_event(*each) for each in places(events)]
        self._die("sent", events)
        for record in await asyncio.gather(*acknowledgements):
            topic = Topic(record.topic.removeprefix(self._settings.topic_prefix))
            self.acknowledged(topic, record.partition, record.offset)

    async def _send_event(self, event: Event, partition: int) -> asyncio.Future[RecordMetadata]:
        timed = event | {"time": datetime.now(UTC).isoformat()}
        value, key = json.dumps(timed).encode(), event["partitionkey"].encode()
        topic = self._settings.topic(topic_of(event))
        sending: asyncio.Future[RecordMetadata]
        sending = await self._producer.send(topic, value, key, partition)
        return sending

    def _note(self, position: int) -> None:
        # Renamed into its place: the process may be killed at any moment.
        new = self._state.with_suffix(".new")
        new.write_text(str(position))
        new.rename(self._state)
        self._position = position

    def _die(self, moment: str, changes: list[Event]) -> None:
        if changes and self._kill.exists() and self._kill.read_text() == moment:
            self._kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def topic_of(event: Event) -> Topic:
    return EVENT_TYPES[event["type"]].topic


def places(events: list[Event]) -> Iterator[tuple[Event, int]]:
    """Yield each event with each partition that it goes to."""
    for event in events:
        if EVENT_TYPES[event["type"]].broadcast:
            yield from ((event, partition) for partition in range(PARTITIONS))
        else:
            yield event, partition_of(event["partitionkey"], PARTITIONS)


def report(*words: object) -> None:
    """Print a line with the time, for the story."""
    print(f"{time.monotonic():.3f}", *words, flush=True)


def main() -> None:
    """Feed from the environment's settings and the arguments."""
    log, state, lag_s, kill = sys.argv[2:]
    feeder = Feeder(Settings(), Path(log), Path(state), float(lag_s), Path(kill))
    asyncio.run(feeder.run())


if __name__ == "__main__":
    main()
