"""Time until no answer has an agent any more that one event withdraws from very many live tokens.

Some tokens are looked up all the time, over several connections. The time is from `send` until the
last answer that has the agent. A 503 counts as an answer without it. The limit's time, too, begins
with `send`: a consumer may have the event before its producer has the acknowledgement.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis
from tests.integration.deployment import Deployment

from benchmarks import producing, progress
from benchmarks.asking import Asker
from benchmarks.company import token
from benchmarks.producing import Line
from benchmarks.rounds import Sample
from projector.feed.producer import CONTENT_TYPE

WATCHED: Final = 200
WATCHERS: Final = 4
# Each watcher then asks some 600 times a second, and leaves most of a core to the servers.
PAUSE_S: Final = 0.001
# Lookups go on for so long before the event, and after its last view.
MARGIN_S: Final = 0.2
# One event and one SET take some 2 ms, and a single one may take twice as long.
LIMIT_TURNS: Final = 20
PATIENCE_S: Final = 5.0


class Watch:
    """Lookups of random tokens of these jobs, which may all use the agent by the grant alone."""

    def __init__(self, deployment: Deployment, jobs: Sequence[int], agent: int) -> None:
        self._deployment = deployment
        numbers = random.sample(jobs, min(WATCHED, len(jobs)))
        self._tokens = [token(number) for number in numbers]
        self._granted = granted(agent)

    def revoked(self, event: Line) -> Sample:
        """Send the event that withdraws the agent; return the milliseconds to the last over-grant.

        `granted` counts the answers with the agent, `refused` those that are no answer.
        """
        return asyncio.run(self._revoked(event))

    async def _revoked(self, event: Line) -> Sample:
        seen = {"granted": 0.0, "refused": 0.0, "last": 0.0}
        async with (
            Asker(self._deployment.api) as asker,
            producing.producer(self._deployment.kafka) as sender,
        ):
            watching = [
                asyncio.create_task(self._ask(asker, seen, start)) for start in range(WATCHERS)
            ]
            await asyncio.sleep(MARGIN_S)
            if not seen["granted"]:
                raise RuntimeError("no answer has the agent that is to be withdrawn")
            began = time.monotonic()
            sent = await _send(sender, self._deployment.prefix + event.topic, event)
            await asyncio.to_thread(
                progress.until_applied,
                self._deployment.redis,
                {(event.topic, event.partition): sent.offset + 1},
            )
            await asyncio.sleep(MARGIN_S)
            for task in watching:
                if task.done():
                    await task  # raises the reason
                task.cancel()
        last = max(0.0, seen.pop("last") - began)
        return Sample(last * 1e3, None, seen)

    async def _ask(self, asker: Asker, seen: dict[str, float], start: int) -> None:
        while True:
            for wanted in self._tokens[start::WATCHERS]:
                body = await asker.ask(wanted)
                if self._granted in body:
                    seen["granted"] += 1
                    seen["last"] = time.monotonic()
                elif b'"allowed_agents"' not in body:
                    seen["refused"] += 1
                await asyncio.sleep(PAUSE_S)


def granted(agent: int) -> bytes:
    """Return the part of an answer that grants the agent; projects have the same ids."""
    return f'{{"id":{agent},"config_project"'.encode()


def one_write(kafka: str, topic: str, other: int, event: Line) -> Sample:
    """Return the milliseconds of an event through a topic of its own, followed by one SET."""
    return asyncio.run(_one_write(kafka, topic, other, event))


async def _one_write(kafka: str, topic: str, other: int, event: Line) -> Sample:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka)
    await consumer.start()
    await consumer.seek_to_end()
    try:
        async with producing.producer(kafka) as sender, Redis(port=other) as redis:
            await redis.ping()

            async def written() -> float:
                began = time.monotonic()
                sending = asyncio.create_task(_send(sender, topic, event))
                await asyncio.wait_for(consumer.getone(), PATIENCE_S)
                await redis.set("overlay", b"1", ex=30)
                took = time.monotonic() - began
                await sending
                return took

            found = [await written() for _ in range(LIMIT_TURNS)]
    finally:
        await consumer.stop()
    return Sample(statistics.median(found) * 1e3)


async def _send(sender: AIOKafkaProducer, topic: str, event: Line) -> Any:
    return await sender.send_and_wait(
        topic, event.value, event.key, event.partition, headers=[CONTENT_TYPE]
    )
