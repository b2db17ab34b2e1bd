"""The observer: looks tokens up over HTTP and records every answer with its time."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, Final, NamedTuple

from tests.faults.namespaces import Token
from tests.faults.traffic import Traffic
from tests.integration.deployment import PATH

CONNECTIONS: Final = 16
LOOKUPS_PER_S: Final = 300.0
HEALTH_INTERVAL_S: Final = 0.1
TIMEOUT_S: Final = 8.0
RECENT: Final = 60


class Lookup(NamedTuple):
    """One answer, with the times of request and response (monotonic clock).

    `reason` is the sentence in a 503.
    """

    token: Token
    sent: float
    received: float
    status: int
    agents: tuple[int, ...]
    reason: str = ""


class Health(NamedTuple):
    """One answer of /health/fresh; status 0 without an answer."""

    at: float
    status: int
    stale: tuple[int, ...]


class Response(NamedTuple):
    status: int
    body: bytes


class Connection:
    """One keep-alive connection to the API."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def get(self, path: str, *headers: str) -> Response | None:
        """Send a GET; return the response, or None if none came in time."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._get(path, headers)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            await self.close()
            return None

    async def _get(self, path: str, headers: tuple[str, ...]) -> Response:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        lines = [f"GET {path} HTTP/1.1", f"Host: {self._host}", *headers, "", ""]
        self._writer.write("\r\n".join(lines).encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        lengths = [f.partition(":")[2] for f in fields if f.lower().startswith("content-length:")]
        return Response(int(status.split()[1]), await self._reader.readexactly(int(lengths[0])))

    async def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Observer:
    """Looks up live and ended tokens all the time, recent ones most often."""

    def __init__(self, port: int, traffic: Traffic, seed: int) -> None:
        self._address = ("127.0.0.1", port)
        self._traffic = traffic
        self._dice = Random(seed)
        self._new = 0
        self.lookups: list[Lookup] = []
        self.unanswered = 0
        self.health: list[Health] = []
        # Tokens that a scenario wants looked up in three of ten lookups.
        self.watched: list[Token] = []

    async def run(self) -> None:
        """Look tokens up until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_health())
            for _ in range(CONNECTIONS):
                tasks.create_task(self._look_up_tokens())

    def new_connection(self) -> Connection:
        """Create another connection to the API."""
        return Connection(*self._address)

    async def _look_up_tokens(self) -> None:
        connection = self.new_connection()
        try:
            while True:
                if token := self._choose():
                    await self.look_up(connection, token)
                await asyncio.sleep(self._dice.uniform(0, 2) * CONNECTIONS / LOOKUPS_PER_S)
        finally:
            await connection.close()

    def _choose(self) -> Token | None:
        """Choose a token: first each one that just started, then rather recent ones."""
        started = self._traffic.started
        if self._new < len(started):
            self._new += 1
            return started[self._new - 1]
        if not started:
            return None
        chance = self._dice.random()
        if self.watched and chance < 0.3:
            return self._dice.choice(self.watched)
        if self._traffic.live and chance < 0.7:
            return self._dice.choice(list(self._traffic.live.values()))
        return self._dice.choice(started[-RECENT:] if chance < 0.9 else started)

    async def look_up(self, connection: Connection, token: Token) -> Lookup | None:
        """Look a token up and record the answer."""
        sent = time.monotonic()
        response = await connection.get(PATH, f"Authorization: Bearer {token.secret}")
        if response is None:
            self.unanswered += 1
            return None
        received, status = time.monotonic(), response.status
        self.lookups.append(
            Lookup(token, sent, received, status, agents_of(response), reason_of(response))
        )
        return self.lookups[-1]

    async def _watch_health(self) -> None:
        connection = self.new_connection()
        try:
            while True:
                self.health.append(await self._health(connection))
                await asyncio.sleep(HEALTH_INTERVAL_S)
        finally:
            await connection.close()

    async def _health(self, connection: Connection) -> Health:
        response = await connection.get("/health/fresh")
        if response is None:
            return Health(time.monotonic(), 0, ())
        stale = json.loads(response.body).get("stale_partitions", ())
        return Health(time.monotonic(), response.status, tuple(stale))

    def statuses(self) -> Counter[int]:
        """Count the answers by status."""
        return Counter(lookup.status for lookup in self.lookups)

    # the end

    async def is_fresh(self) -> bool:
        """Return whether every partition has applied all that Kafka had before this call.

        A 401 for an unknown token proves it: that needs a later stamp of each partition.
        """
        connection = self.new_connection()
        try:
            unknown = await connection.get(PATH, "Authorization: Bearer never-started")
            ready = await connection.get("/health/fresh")
        finally:
            await connection.close()
        return (unknown and unknown.status) == 401 and (ready and ready.status) == 200

    async def final_answers(self, tokens: list[Token]) -> dict[str, Any]:
        """Look each token up once; return the answers by digest, 200 with its body."""
        answers: dict[str, Any] = {}
        waiting = iter(tokens)
        await asyncio.gather(*(self._final_answers(waiting, answers) for _ in range(CONNECTIONS)))
        return answers

    async def _final_answers(self, waiting: Iterator[Token], answers: dict[str, Any]) -> None:
        connection = self.new_connection()
        try:
            for token in waiting:
                answers[token.digest] = comparable(
                    await connection.get(PATH, f"Authorization: Bearer {token.secret}")
                )
        finally:
            await connection.close()


def agents_of(response: Response) -> tuple[int, ...]:
    """Return the ids of the agents in an answer."""
    if response.status != 200:
        return ()
    return tuple(agent["id"] for agent in json.loads(response.body)["allowed_agents"])


def reason_of(response: Response) -> str:
    """Return the sentence in a 503."""
    return str(json.loads(response.body).get("reason")) if response.status == 503 else ""


def comparable(response: Response | None) -> Any:
    """Convert an answer to the form that the oracle returns."""
    if response is None:
        return "no answer"
    return (200, json.loads(response.body)) if response.status == 200 else response.status
