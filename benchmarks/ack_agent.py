"""The limit of live events and of an idle worker: Faust agents that only acknowledge.

Faust as fast as its users can have it: uvloop takes a quarter of its CPU time away. With Faust's
own consumer in place of the product's, fetches that wait for idle partitions would make it three
times slower at times. At rest, Faust's own consumer needs a third of the CPU: it fetches every
1.5 s. So the limit of an idle worker has that one.

It reads the number of expected events from standard input, a number a line. Answers each with the
time (monotonic seconds) at which the last of them was acknowledged. The first answer, before any
line, comes once the partitions are assigned.

    python -m benchmarks.ack_agent KAFKA PREFIX FOLDER [own-consumer]
"""

import asyncio
import sys
import time
from typing import Any

import faust
import uvloop

from projector.events.model import Topic
from projector.kafka.faust_consumer import ShortPollConsumer
from projector.kafka.range_reader import MAX_POLLED
from projector.ports import LOOPBACK, free_port


class Counter:
    """The number of acknowledged events, with the callers that wait for a number."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = 0
        self.reached = asyncio.Event()

    def add(self) -> None:
        """Count one more."""
        self.count += 1
        if self.count == self.wanted:
            self.reached.set()


def create_app(kafka: str, prefix: str, folder: str, consumer: str, counter: Counter) -> Any:
    """Create an app with the product's settings, and agents without the product."""
    app = faust.App(
        id=f"{prefix}ack-agent",
        broker=[f"kafka://{kafka}"],
        store="memory://",
        datadir=folder,
        table_standby_replicas=1,
        topic_disable_leader=True,
        web_tables_enabled=False,
        web_bind=LOOPBACK,
        web_host=LOOPBACK,
        web_port=free_port(),
        stream_wait_empty=False,
        broker_heartbeat_interval=1.0,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=MAX_POLLED,
    )
    if consumer != "own-consumer":
        app.transport.Consumer = ShortPollConsumer
    for topic in Topic:
        source = app.topic(
            prefix + topic, key_serializer="raw", value_serializer="raw", internal=False
        )
        app.agent(source, name=f"ack-{topic}")(_acknowledge(counter))
    return app


def _acknowledge(counter: Counter) -> Any:
    async def acknowledge(stream: Any) -> None:
        async for event in stream.noack().events():
            event.ack()
            counter.add()

    return acknowledge


async def answer(app: Any, counter: Counter) -> None:
    """Answer the lines of standard input until it ends."""
    assigned = asyncio.Event()

    async def note(_app: Any, partitions: set[Any], **_: Any) -> None:
        if partitions:
            assigned.set()

    app.on_partitions_assigned.connect(note)
    await app.start()
    await assigned.wait()
    _say(time.monotonic())
    while line := await asyncio.to_thread(sys.stdin.readline):
        counter.wanted += int(line)
        if counter.count < counter.wanted:
            counter.reached.clear()
            await counter.reached.wait()
        _say(time.monotonic())


def _say(moment: float) -> None:
    sys.stdout.write(f"{moment}\n")
    sys.stdout.flush()


async def main(kafka: str, prefix: str, folder: str, consumer: str = "") -> None:
    """Run the app."""
    counter = Counter()
    await answer(create_app(kafka, prefix, folder, consumer, counter), counter)


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(*sys.argv[1:]))
