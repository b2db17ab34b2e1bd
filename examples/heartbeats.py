"""Sends the changes of a database to Kafka, and heartbeats that vouch for them.

The database is SQLite with a log of changes. An application writes to the log in the transaction
that makes the change. Needs aiokafka; a prefix of the topics may follow the name of the file:

    python examples/heartbeats.py kafka-1:9092 acme acme.db
    sqlite3 acme.db "INSERT INTO changes (type, root, data)
                     VALUES ('group.removed', '3', '{\"id\": 12}')"

If anything fails, the program ends. Let a supervisor start it again.
"""

import asyncio
import json
import sqlite3
import sys
import time
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import RecordMetadata

ROUND_S = 0.25
SOURCES = "sources"
TOPICS = ("membership", "agent-config", "job-lifecycle")
TOPIC_OF = dict.fromkeys(("agent", "shared-agent", "instance-agent"), TOPICS[1]) | {
    "job": TOPICS[2]
}
BROADCASTS = ("user.set", "instance-agent.set", "instance-agent.removed")
# SQLite has one writer at a time, so a number can be seen only after all smaller ones. In
# PostgreSQL that is not so: a smaller number may be committed later.
SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, root TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sent (row INTEGER PRIMARY KEY CHECK (row = 1), number INTEGER NOT NULL);
INSERT OR IGNORE INTO sent VALUES (1, 0);
"""


class Sender:
    """Sends changes and heartbeats of one source."""

    def __init__(
        self, producer: AIOKafkaProducer, source: str, database: sqlite3.Connection, prefix: str
    ) -> None:
        self.producer = producer
        self.source = source
        self.database = database
        self.prefix = prefix
        # Read before the ends below are asked: all changes up to this number lie below the ends.
        (self.sent,) = database.execute("SELECT number FROM sent").fetchone()
        # The offset of the last heartbeat that Kafka acknowledged; none in the first of a run.
        self.after: int | None = None
        # Of each topic, the next offset of every partition.
        self.offsets: dict[str, list[int]] = {}

    async def ask_ends(self, consumer: AIOKafkaConsumer) -> None:
        """Start from the ends: what an earlier run got acknowledged lies below them."""
        for topic in TOPICS:
            name = self.prefix + topic
            numbers = range(len(await self.producer.partitions_for(name)))
            ends = await consumer.end_offsets([TopicPartition(name, n) for n in numbers])
            self.offsets[topic] = [ends[TopicPartition(name, n)] for n in numbers]

    async def send_changes(self) -> None:
        """Send all that has changed, and return once Kafka has acknowledged it."""
        rows = self.database.execute(
            "SELECT number, type, root, data FROM changes WHERE number > ? ORDER BY number",
            (self.sent,),
        ).fetchall()
        unacknowledged: list[asyncio.Future[RecordMetadata]] = []
        for number, kind, root, data in rows:
            topic = TOPIC_OF.get(kind.partition(".")[0], TOPICS[0])
            if kind.startswith("job."):  # the job's first answer needs what came before
                await self.acknowledge(unacknowledged)
            # None: murmur2 of the key, the default partitioner.
            every = range(len(self.offsets[topic])) if kind in BROADCASTS else (None,)
            value = self.event(kind, json.loads(data), partitionkey=root, sequence=str(number))
            for partition in every:
                unacknowledged.append(
                    await self.producer.send(self.prefix + topic, value, root.encode(), partition)
                )
        await self.acknowledge(unacknowledged)
        if rows:
            self.sent = rows[-1][0]
            # Only now. Changes that were sent but not noted are sent again, and then ignored:
            # their `sequence` is the same.
            self.database.execute("UPDATE sent SET number = max(number, ?)", (self.sent,))
            print(f"Kafka has all changes up to {self.sent}", flush=True)

    async def acknowledge(self, unacknowledged: list[asyncio.Future[RecordMetadata]]) -> None:
        """Wait for Kafka's acknowledgements, and raise the offsets by them."""
        for record in await asyncio.gather(*unacknowledged):
            ends = self.offsets[record.topic.removeprefix(self.prefix)]
            if record.offset < ends[record.partition]:
                raise SystemExit(f"{record.topic} was created anew or lost records: feed it again")
            ends[record.partition] = record.offset + 1
        unacknowledged.clear()

    async def send_heartbeat(self) -> None:
        """Vouch that all from before heartbeat `after` was acknowledged is below the offsets."""
        data = {"source": self.source, "after": self.after, "offsets": self.offsets}
        record = await self.producer.send_and_wait(
            self.prefix + SOURCES, self.event("source.heartbeat", data), self.source.encode()
        )
        if self.after is not None and record.offset <= self.after:
            raise SystemExit(f"{record.topic} was created anew or lost records: start again")
        self.after = record.offset

    def event(self, kind: str, data: Any, **attributes: str) -> bytes:
        """Return a CloudEvent in structured mode."""
        envelope = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": f"/{self.source}"}
        return json.dumps({**envelope, "type": kind, **attributes, "data": data}).encode()


async def run(kafka: str, source: str, database: sqlite3.Connection, prefix: str) -> None:
    """Send changes and then a heartbeat, four times a second."""
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        sender = Sender(producer, source, database, prefix)
        async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
            await sender.ask_ends(consumer)
        while True:
            began = time.monotonic()
            # The look into the source begins after the acknowledgement of the heartbeat before.
            await sender.send_changes()
            await sender.send_heartbeat()
            await asyncio.sleep(began + ROUND_S - time.monotonic())


def main() -> None:
    """Read the arguments, open the database, and send until the end."""
    if not 4 <= len(sys.argv) <= 5:
        raise SystemExit("usage: heartbeats.py KAFKA SOURCE FILE [TOPIC_PREFIX]")
    kafka, source, file, *prefix = sys.argv[1:]
    database = sqlite3.connect(file, isolation_level=None)  # every statement is a transaction
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(SCHEMA)
    asyncio.run(run(kafka, source, database, "".join(prefix)))


if __name__ == "__main__":
    main()
