"""Time from COMMIT in GitLab's database until the answer has changed over HTTP.

Each transaction gives one user another role, which by turns allows the agents and does not. Each
user has one membership and one live job. The limit brings the same transactions through
pg_recvlogical and Kafka to a plain consumer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from tests.integration.deployment import Deployment
from tests.integration.gitlab.postgres import program
from tests.integration.servers import eventually

from benchmarks import gitlab_server, producing, progress
from benchmarks.asking import Asker
from benchmarks.drain_and_produce import OPTIONS
from benchmarks.gitlab_server import GitLab, start_bridge
from benchmarks.lookups import Signed
from benchmarks.processes import Servers
from benchmarks.rounds import Report, Round, Sample
from benchmarks.sizes import Sizes
from benchmarks.visible import PATIENCE_S, until_answered

PARTITIONS: Final = 4
ROWS: Final = 5_000
WATCHED: Final = 120
WARM_UP_S: Final = 0.5
WARM_UP: Final = 20
SLOT, TOPIC = "relay", "relay"
MAINTAINER, GUEST = 40, 10
# Those watched have no membership but one in their job's project.
MEMBERSHIPS: Final = (
    "DELETE FROM members WHERE user_id <= %(watched)s",
    """INSERT INTO members (access_level, source_type, source_id, user_id, type)
    SELECT 40, 'Project', project_id, user_id, 'ProjectMember'
    FROM p_ci_builds WHERE user_id <= %(watched)s""",
)
# The text is what the consumer looks for in the output of pg_recvlogical.
CHANGE: Final = "UPDATE members SET access_level = %s, invite_token = %s WHERE user_id = %s"


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure p50 and p95 of single transactions at a steady rate."""
    with gitlab_server.running(ROWS) as gitlab, servers.deployment(PARTITIONS) as deployment:
        for sql in MEMBERSHIPS:
            gitlab.connection.execute(sql, {"watched": WATCHED})
        watch = Watch(servers, gitlab, deployment)
        asyncio.run(watch.round(sizes.gitlab_rate, WARM_UP_S))
        rounds = [
            asyncio.run(watch.round(sizes.gitlab_rate, sizes.rate_seconds))
            for _ in range(sizes.gitlab_rounds)
        ]
    for percent in ("p50", "p95"):
        report.figures[f"gitlab_visible_{percent}"] = [
            Round(_picked(r.product, percent), _picked(r.limit, percent)) for r in rounds
        ]


def _picked(sample: Sample, percent: str) -> Sample:
    return Sample(sample.more[percent], None, sample.more)


class Watch:
    """The whole product behind GitLab's database, and users whose roles change."""

    def __init__(self, servers: Servers, gitlab: GitLab, deployment: Deployment) -> None:
        self._gitlab = gitlab
        self._deployment = deployment
        self._signed = Signed(servers.folder, WATCHED)
        self._turn = 0
        self._relayed = producing.create_topic(deployment, TOPIC, 1)
        deployment.env |= self._signed.env
        start_bridge(deployment, gitlab, "visible")
        deployment.start("worker")
        deployment.start_api()
        progress.until_fresh(deployment.redis, PARTITIONS, 0)
        deployment.until_fresh()
        for job in (1, WATCHED):
            eventually(lambda: self._has_agents(job), f"agents for job {job}")  # noqa: B023
        gitlab.slot(SLOT)

    def _has_agents(self, job: int) -> bool:
        return bool(self._deployment.agents(self._signed.token(job)))

    async def round(self, rate: float, seconds: float) -> Round:
        """Measure the product and plain Kafka in turn."""
        count = int(rate * seconds)
        async with await psycopg.AsyncConnection.connect(self._gitlab.owners_dsn) as database:
            await database.set_autocommit(True)
            product = await self._product(database, rate, count)
            return Round(product, await self._relay(database, rate, count))

    async def _product(self, database: Any, rate: float, count: int) -> Sample:
        async with Asker(self._deployment.api) as asker:

            async def seen(user: int, may: bool, _: str) -> None:
                await until_answered(asker, self._signed.token(user), may)

            return await self._watched(database, rate, count, seen)

    async def _relay(self, database: Any, rate: float, count: int) -> Sample:
        async with Relay(self._gitlab.dsn, self._deployment.kafka, self._relayed) as relay:

            async def seen(_: int, __: bool, mark: str) -> None:
                await relay.until_consumed(mark)

            await self._watched(database, rate, WARM_UP, seen)
            return await self._watched(database, rate, count, seen)

    async def _watched(
        self, database: Any, rate: float, count: int,
        seen: Callable[[int, bool, str], Awaitable[None]],
    ) -> Sample:  # fmt: skip
        found: list[float] = []

        async def change(_: int) -> None:
            turn, self._turn = self._turn, self._turn + 1
            cycle, who = divmod(turn, WATCHED)
            may, mark = cycle % 2 == 1, f"mark-{turn}-"
            level = MAINTAINER if may else GUEST
            await database.execute(CHANGE, (level, mark, who + 1))
            committed = time.monotonic()
            await seen(who + 1, may, mark)
            found.append(time.monotonic() - committed)

        await producing.steadily(rate, count, change)
        return _sample(found)


class Relay:
    """pg_recvlogical, whose output goes to Kafka as it comes, and a consumer of that."""

    def __init__(self, dsn: str, kafka: str, topic: str) -> None:
        self._dsn = dsn
        self._topic = topic
        self._producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", linger_ms=0)
        self._consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka)
        self._consumed = b""
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Relay":
        await self._producer.start()
        await self._consumer.start()
        await self._consumer.seek_to_end()
        argv = [program("pg_recvlogical"), "--dbname", self._dsn, "--slot", SLOT, "--start",
                "--no-loop", "--file", "-"]  # fmt: skip
        for option in OPTIONS:
            argv += ["--option", option]
        self._reader = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._consume())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.terminate()
        await self._reader.wait()
        for task in self._tasks:
            task.cancel()
        await self._producer.stop()
        await self._consumer.stop()

    async def until_consumed(self, mark: str) -> None:
        """Wait until the consumer has the mark, at most as long as for an answer."""
        deadline = time.monotonic() + PATIENCE_S
        while mark.encode() not in self._consumed and time.monotonic() < deadline:
            self._news.clear()
            await asyncio.wait([asyncio.create_task(self._news.wait())], timeout=PATIENCE_S)

    async def _send(self) -> None:
        assert self._reader.stdout is not None
        while output := await self._reader.stdout.read(65536):
            await self._producer.send(self._topic, output)

    async def _consume(self) -> None:
        async for record in self._consumer:
            self._consumed += record.value
            self._news.set()


def _sample(found: list[float]) -> Sample:
    ordered = sorted(found)
    at = {"p50": ordered[len(ordered) // 2], "p95": ordered[int(len(ordered) * 0.95)]}
    return Sample(at["p50"] * 1e3, None, {name: seconds * 1e3 for name, seconds in at.items()})
