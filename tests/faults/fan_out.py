"""A company with very many live jobs, and observers that look these up during a revocation."""

import asyncio
import json
import time
from collections import Counter
from random import Random
from typing import Any, Final, NamedTuple

import redis.asyncio
from aiokafka import AIOKafkaProducer

from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from projector.store import schema
from tests import builders
from tests.faults.background_loop import BackgroundLoop
from tests.faults.observer import Connection, agents_of, reason_of
from tests.faults.report import Report, Row
from tests.faults.scenario import BOUND_S, Faults, injected
from tests.integration.deployment import PARTITIONS, PATH, Deployment
from tests.integration.servers import Server, eventually

ROOT: Final = "3"
AGENT: Final = 5
PARTITION: Final = partition_of(ROOT, PARTITIONS)
HELD: Final = f"partition {PARTITION} is writing a change that may take agents from this job"
GRANTED: Final = builders.configured(AGENT, groups=[{"id": 3}])
REVOKED: Final = builders.configured(AGENT, groups=[])
CLIENTS: Final = 8
FED_AT_ONCE: Final = 25_000
LOOK_S: Final = 0.001
# From here on an answer with the agent is a finding, where no line in Redis shows the moment.
LATE_S: Final = 0.5
PATIENCE_S: Final = 90.0


class Seen(NamedTuple):
    """One answer; `has_agent` if it is a list with the agent."""

    job: int
    sent: float
    status: int
    has_agent: bool
    reason: str


class FanOut:
    """Jobs of one project, which all may use one agent, and answers to their lookups."""

    def __init__(self, deployment: Deployment, background: BackgroundLoop, jobs: int) -> None:
        self.deployment = deployment
        self.jobs = jobs
        self.seen: list[Seen] = []
        self._background = background
        deployment.env["PROJECTOR_MAX_STALENESS"] = f"{2 * BOUND_S:g}"

    def start(self, faults: Faults) -> Server:
        """Start a worker with these faults inside and an API; return once all jobs are live."""
        assert self.deployment.command("topics").returncode == 0
        worker = self.start_worker(faults)
        self.deployment.start_api()
        self.deployment.until_fresh()
        self.deployment.feed(
            builders.group(3), builders.project(7, 3), builders.project(8, 3),
            builders.member(1, group_id=3), builders.agent(AGENT, 8), GRANTED,
        )  # fmt: skip
        for start in range(1, self.jobs + 1, FED_AT_ONCE):
            jobs = range(start, min(start + FED_AT_ONCE, self.jobs + 1))
            self.deployment.feed(*(builders.started(job, 7) for job in jobs))
        self.until_all(has_agent=True)
        return worker

    def start_worker(self, faults: Faults) -> Server:
        return self.deployment.start("worker", **injected(faults))

    def watch(self) -> None:
        """Look random jobs up from now on."""
        for number in range(CLIENTS):
            self._background.start(self._look_up(Random(number)))

    def send(self, event: dict[str, Any]) -> float:
        """Send an event; return when Kafka has acknowledged it."""
        return self._background.run(self._send(event), PATIENCE_S)

    def until_held(self) -> float:
        """Return the time at which the line was in Redis."""
        return self._background.run(self._held(), PATIENCE_S)

    def until_no_line(self, patience: float = PATIENCE_S) -> None:
        """Wait until the write of the last bulk change has ended, with its line."""
        eventually(lambda: not self.deployment.redis.exists(schema.OVERLAY), "no line", patience)

    def until_all(self, *, has_agent: bool) -> None:
        """Wait until jobs at both ends have the same answer."""
        wanted = [AGENT] if has_agent else []
        ends = [1, self.jobs // 2, self.jobs]

        def is_written() -> bool:
            return all(self.deployment.agents(f"token-{job}") == wanted for job in ends)

        eventually(is_written, f"all jobs get {wanted}", PATIENCE_S)

    def over_grants(self, since: float) -> list[Seen]:
        """Return the answers with the agent to lookups that were sent after this time."""
        return [seen for seen in self.seen if seen.sent >= since and seen.has_agent]

    def add_row(
        self, report: Report, fault: str, since: float, proof: str, *, may_use: bool = False
    ) -> None:
        """Add the answers since then to the report; `may_use`: the agent is allowed again."""
        counted = [seen for seen in self.seen if seen.sent >= since]
        statuses = Counter(seen.status for seen in counted)
        held = sum(seen.reason == HELD for seen in counted)
        proof = f"{proof}, {held:,} lookups held back"
        over_grants = 0 if may_use else len(self.over_grants(since))
        found = over_grants, statuses[401], 0, 0, 0.0
        report.rows.append(Row(fault, self.jobs, len(counted), *found, proof))

    async def _look_up(self, dice: Random) -> None:
        connection = Connection("127.0.0.1", int(self.deployment.api.rpartition(":")[2]))
        try:
            while True:
                job, sent = dice.randint(1, self.jobs), time.monotonic()
                found = await connection.get(PATH, f"Authorization: Bearer token-{job}")
                if found:
                    has_agent = AGENT in agents_of(found)
                    self.seen.append(Seen(job, sent, found.status, has_agent, reason_of(found)))
                await asyncio.sleep(CLIENTS * LOOK_S)
        finally:
            await connection.close()

    async def _send(self, event: dict[str, Any]) -> float:
        topic = self.deployment.prefix + EVENT_TYPES[event["type"]].topic
        value, key = json.dumps(event).encode(), ROOT.encode()
        async with AIOKafkaProducer(bootstrap_servers=self.deployment.kafka, acks="all") as sender:
            await sender.send_and_wait(topic, value, key, PARTITION)
            return time.monotonic()

    async def _held(self) -> float:
        url: Any = self.deployment.redis_url
        async with redis.asyncio.Redis.from_url(url) as client:
            while not await client.exists(schema.OVERLAY):  # noqa: ASYNC110  Redis signals no key
                await asyncio.sleep(LOOK_S)
        return time.monotonic()
