"""Time until an event changes an answer over HTTP, against a plain producer and consumer.

Every event gives one user another role, which by turns allows the agents and does not. Each user
has one live job. Some events are watched, by both alike, so that both percentiles are of as many
samples. The token of a watched event is looked up repeatedly from Kafka's acknowledgement on.
"""

import asyncio
import time
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from tests.integration.deployment import Deployment

from benchmarks import producing, progress
from benchmarks.asking import Asker
from benchmarks.company import companies, token
from benchmarks.processes import CpuClock, Servers
from benchmarks.rounds import Point, Report, Round, Sample
from benchmarks.sizes import Sizes
from projector.events.model import Topic
from projector.feed.producer import CONTENT_TYPE

PARTITIONS: Final = 4
USERS: Final = 2000
# 300 of the 1,500 events of a round: with 75, the p99 would be the slowest of them.
WATCHED_PER_S: Final = 100
# A change that is not seen by then counts as this long. Each user's next event comes later.
PATIENCE_S: Final = 3.0
# The header of watched events: the time at which each was sent (monotonic clock).
MOMENT: Final = "sent"
NO_AGENTS: Final = b'"allowed_agents":[]'
# A user without jobs.
JOBLESS_USER: Final = 100_000


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure p50 and p99 at the wanted rate and, if the run grows, at lower ones."""
    with servers.deployment(PARTITIONS) as deployment:
        watch = Watch(deployment)
        watch.rounds(1, sizes.rate, 1)
        for rate in sizes.steps(sizes.rate)[:-1] if sizes.grows else []:
            _note_growth(report, rate, watch.rounds(sizes.growth_rounds, rate, sizes.rate_seconds))
        rounds = watch.rounds(sizes.rounds, sizes.rate, sizes.rate_seconds)
        for percent, picked in _by_percentile(rounds).items():
            report.figures[f"visible_{percent}"] = picked
        if sizes.grows:
            _note_growth(report, sizes.rate, rounds)


def _note_growth(report: Report, rate: float, rounds: list[Round]) -> None:
    for percent, picked in _by_percentile(rounds).items():
        points = report.growth.setdefault(f"visible_{percent}_by_rate", [])
        points.append(Point(rate, picked))


def _by_percentile(rounds: list[Round]) -> dict[str, list[Round]]:
    return {
        percent: [Round(_picked(r.product, percent), _picked(r.limit, percent)) for r in rounds]
        for percent in ("p50", "p99")
    }


def _picked(sample: Sample, percent: str) -> Sample:
    return Sample(sample.more[percent], sample.more.get("worker_cpu"), sample.more)


class Watch:
    """The whole product, with users whose roles change constantly."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._companies = companies(PARTITIONS, users=USERS // PARTITIONS)
        self._turn = 0
        self._topic = deployment.prefix + Topic.MEMBERSHIP
        # Of its own: a worker that applies the same events would slow the limit.
        self._plain = producing.create_topic(deployment, "plain", PARTITIONS)
        self._worker = deployment.start("worker").process.pid
        deployment.start_api()
        progress.until_fresh(deployment.redis, PARTITIONS, 0)
        ends = producing.send(deployment.kafka, deployment.prefix, self._base())
        progress.until_applied(deployment.redis, ends)
        jobless = [producing.line(c, c.member(JOBLESS_USER, "guest")) for c in self._companies]
        progress.until_delivered(
            deployment.redis, lambda: producing.send(deployment.kafka, deployment.prefix, jobless)
        )
        deployment.until_fresh()

    def rounds(self, rounds: int, rate: float, seconds: float) -> list[Round]:
        """Measure the product and plain Kafka in turn, at `rate` events a second."""
        return [asyncio.run(self._round(rate, int(rate * seconds))) for _ in range(rounds)]

    def _base(self) -> list[producing.Line]:
        return [
            producing.line(company, message)
            for company in self._companies
            for message in [
                *company.base(),
                *(company.started(_job(company.partition, u), u) for u in range(company.users)),
            ]
        ]

    async def _round(self, rate: float, count: int) -> Round:
        async with producing.producer(self._deployment.kafka) as sender:
            with CpuClock(self._worker) as cpu:
                product = await self._product(sender, rate, count)
            product.more["worker_cpu"] = cpu.seconds / count * 1e6
            return Round(product, await self._through_plain_kafka(sender, rate, count))

    async def _product(self, sender: AIOKafkaProducer, rate: float, count: int) -> Sample:
        found: list[float] = []
        async with Asker(self._deployment.api) as asker:

            async def change(number: int) -> None:
                partition, user, may = self._next()
                watched = is_watched(number, rate)
                await _send(sender, self._topic, self._event(partition, user, may), watched)
                acknowledged = time.monotonic()
                if watched:
                    await until_answered(asker, token(_job(partition, user)), may)
                    found.append(time.monotonic() - acknowledged)

            await producing.steadily(rate, count, change)
        return _sample(found)

    async def _through_plain_kafka(
        self, sender: AIOKafkaProducer, rate: float, count: int
    ) -> Sample:
        found: list[float] = []
        consumer = AIOKafkaConsumer(self._plain, bootstrap_servers=self._deployment.kafka)
        await consumer.start()
        await consumer.seek_to_end()
        consuming = asyncio.create_task(consume(consumer, count, found))

        async def change(number: int) -> None:
            user, partition = divmod(number % USERS, PARTITIONS)
            event = self._event(partition, user, True)
            await _send(sender, self._plain, event, is_watched(number, rate))

        try:
            await producing.steadily(rate, count, change)
            await asyncio.wait_for(consuming, PATIENCE_S)
        finally:
            consuming.cancel()
            await consumer.stop()
        return _sample(found)

    def _next(self) -> tuple[int, int, bool]:
        """Return the user whose role changes next, and whether it allows the agents."""
        turn, self._turn = self._turn, self._turn + 1
        cycle, who = divmod(turn, USERS)
        return who % PARTITIONS, who // PARTITIONS, cycle % 2 == 1

    def _event(self, partition: int, user: int, may: bool) -> producing.Line:
        company = self._companies[partition]
        return producing.line(company, company.member(user, "maintainer" if may else "guest"))


async def _send(sender: AIOKafkaProducer, topic: str, event: producing.Line, watched: bool) -> None:
    moments = [(MOMENT, str(time.monotonic()).encode())] if watched else []
    await sender.send_and_wait(
        topic, event.value, event.key, event.partition, headers=[CONTENT_TYPE, *moments]
    )


def is_watched(number: int, rate: float) -> bool:
    """Whether the event of this number is one of the `WATCHED_PER_S` of each second."""
    return number % max(1, round(rate / WATCHED_PER_S)) == 0


async def consume(consumer: Any, count: int, found: list[float]) -> None:
    """Consume so many records; add the seconds since `send` of each that is watched."""
    consumed = 0
    while consumed < count:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            now = time.monotonic()
            consumed += len(records)
            headers = (dict(record.headers) for record in records)
            found += [now - float(each[MOMENT]) for each in headers if MOMENT in each]


async def until_answered(asker: Asker, wanted: str, may: bool) -> None:
    """Look up again and again, with pauses of a twentieth of the time that has passed."""
    began = time.monotonic()
    while (NO_AGENTS not in await asker.ask(wanted)) != may:
        passed = time.monotonic() - began
        if passed > PATIENCE_S:
            return
        await asyncio.sleep(passed / 20)


def _job(partition: int, user: int) -> int:
    return user * PARTITIONS + partition + 1


def _sample(found: list[float]) -> Sample:
    ordered = sorted(found)
    at = {"p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)]}
    return Sample(at["p50"] * 1e3, None, {name: seconds * 1e3 for name, seconds in at.items()})
