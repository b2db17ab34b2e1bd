"""The product as deployed for one test: topics, Redis, workers and an API."""

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from tests.integration import processes
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually, projector, running

PATH = "/api/v4/job/allowed_agents"
PARTITIONS = 4


class Answer(NamedTuple):
    status: int
    body: Any
    headers: httpx.Headers


class DeadLetter(NamedTuple):
    value: bytes | None
    headers: dict[str, str]


class Deployment:
    def __init__(self, kafka: str, port: int, prefix: str, folder: Path) -> None:
        self.kafka = kafka
        self.redis_url = f"redis://127.0.0.1:{port}/0"
        self.redis: Any = redis.Redis.from_url(self.redis_url)
        self.env = {
            "PROJECTOR_KAFKA": kafka,
            "PROJECTOR_REDIS_URL": self.redis_url,
            "PROJECTOR_TOPIC_PREFIX": prefix,
            "PROJECTOR_PARTITIONS": str(PARTITIONS),
            "PROJECTOR_SESSION_TIMEOUT": "6",
        }
        self.prefix = prefix
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.redis)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def use_redis(self, url: str) -> None:
        """Use this URL of Redis for every process that starts from now on."""
        self.env["PROJECTOR_REDIS_URL"] = self.redis_url = url

    def command(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a `projector` command to its end."""
        return processes.run("projector", args, os.environ | self.env, stdin, timeout=60)

    def start(self, *command: str, module: str = "projector", **env: str) -> Server:
        log = self.folder / f"{command[0]}-{free_port()}.log"
        server = projector(list(command), log, self.env | env, module)
        return self._stack.enter_context(running(server))

    def start_api(self, **env: str) -> Server:
        port = free_port()
        self.api = f"http://127.0.0.1:{port}"
        self.client = self._stack.enter_context(httpx.Client(base_url=self.api, timeout=10))
        return self.start("api", "--port", str(port), **env)

    def start_all(self) -> Server:
        """Create topics, start a worker and the API, wait until fresh; return the worker."""
        assert self.command("topics").returncode == 0
        worker = self.start("worker")
        self.start_api()
        self.until_fresh()
        return worker

    def until_fresh(self) -> None:
        eventually(lambda: self.get("/health/fresh").status == 200, "every partition fresh")

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        try:
            response = self.client.get(path, headers=headers)
        except httpx.TransportError:
            return Answer(0, None, httpx.Headers())
        return Answer(response.status_code, response.json(), response.headers)

    def look_up(self, token: str, **headers: str) -> Answer:
        return self.get(PATH, {"Job-Token": token, **headers})

    def feed(self, *events: dict[str, Any]) -> None:
        """Feed the events; return once Kafka has them."""
        lines = "\n".join(json.dumps(event) for event in events)
        done = self.command("feed", "-", stdin=lines)
        assert done.returncode == 0, done.stderr

    def until(self, token: str, status: int, what: str = "") -> Answer:
        """Look the token up until it has the status."""
        eventually(lambda: self.look_up(token).status == status, what or f"status {status}", 30)
        return self.look_up(token)

    def agents(self, token: str) -> list[int] | None:
        """Look the token up; return the ids of its agents, None if the answer is not a 200."""
        answer = self.look_up(token)
        if answer.status != 200:
            return None
        return [agent["id"] for agent in answer.body["allowed_agents"]]

    def until_agents(self, token: str, *agents: int) -> None:
        """Look the token up until it may use exactly these agents."""
        eventually(lambda: self.agents(token) == list(agents), f"the agents {agents}", 30)

    def administrate(self, work: Callable[[AIOKafkaAdminClient], Awaitable[object]]) -> None:
        """Run `work` with Kafka's admin client."""

        async def run() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
            await admin.start()
            try:
                await work(admin)
            finally:
                await admin.close()

        asyncio.run(run())

    def topics(self) -> list[str]:
        """List the topics; Kafka lists a new one some time after it has acknowledged it."""
        known: list[str] = []

        async def list_topics(admin: AIOKafkaAdminClient) -> None:
            known.extend(await admin.list_topics())

        self.administrate(list_topics)
        return known

    def delete_topic(self, name: str) -> None:
        topic = self.prefix + name
        self.administrate(lambda admin: admin.delete_topics([topic]))
        eventually(lambda: topic not in self.topics(), f"{topic} deleted")

    def produce(
        self,
        event: dict[str, Any] | bytes,
        topic: str | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Send a record without `projector feed`, as another team's producer would."""
        value = event if isinstance(event, bytes) else json.dumps(event).encode()
        root = event["partitionkey"] if isinstance(event, dict) else "3"
        name = topic or (EVENT_TYPES[event["type"]].topic if isinstance(event, dict) else "")
        number = partition_of(root, PARTITIONS) if partition is None else partition

        async def send() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.kafka, acks="all") as producer:
                await producer.send_and_wait(
                    self.prefix + name, value, root.encode(), number, headers=list(headers)
                )

        asyncio.run(send())

    def dead_letters(self, count: int) -> list[DeadLetter]:
        """Wait for `count` dead letters; return all that there are."""

        async def read() -> list[DeadLetter]:
            async with AIOKafkaConsumer(
                f"{self.prefix}dead-letters",
                bootstrap_servers=self.kafka,
                auto_offset_reset="earliest",
            ) as consumer:
                found: list[Any] = []
                while polled := await consumer.getmany(timeout_ms=1000):
                    found += (record for records in polled.values() for record in records)
            return [
                DeadLetter(
                    r.value,
                    {name: (text or b"").decode(errors="replace") for name, text in r.headers},
                )
                for r in found
            ]

        letters: list[DeadLetter] = []

        def enough() -> bool:
            letters[:] = asyncio.run(read())
            return len(letters) >= count

        eventually(enough, f"{count} dead letters")
        return letters
