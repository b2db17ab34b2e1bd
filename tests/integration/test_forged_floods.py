"""Floods of forged tokens beside good lookups, on a real API and a real Redis."""

import asyncio
import hashlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from projector.ports import is_listening
from projector.store import schema
from tests.builders import digest
from tests.integration import servers
from tests.integration.deployment import PATH, Deployment
from tests.integration.ports import free_port
from tests.integration.servers import Server
from tests.job_tokens import ISSUER, claims_of, segment, signing_key

KEY, OTHER = signing_key(0), signing_key(1)
EPOCH = 1
FLOODS, ROUNDS = 6, 400
MANY, LOOKUPS, MOST_PER_LOOKUP = 48, 200, 40
PLAIN, BEHIND = "token-9", "another-token"
GROWTH_BYTES = 64 * 2**20
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def signed(job: int, number: int = 0) -> str:
    return KEY.token(job, **claims_of(job, int(time.time())) | {"jti": str(number)})


def body(job: int) -> bytes:
    return b'{"job":{"id":%d}}' % job


def store_views(redis: Any) -> None:
    """A plain token of job 1, job 2 without a digest, and job 3 that has one."""

    def record(job: int) -> bytes:
        return schema.ViewRecord(200, 0, schema.Version(EPOCH, 1), body(job)).encode()

    redis.set(schema.TOKENS + digest(PLAIN), record(1))
    redis.set(schema.job_key(2), record(2))
    redis.set(schema.job_key(3), digest(BEHIND))
    redis.set(schema.TOKENS + digest(BEHIND), record(3))
    seconds, _ = redis.time()
    stamp = {"stamp": seconds * 1000, "stamp_epoch": EPOCH}
    redis.hset(schema.partition_key(0), mapping=stamp)
    redis.set(schema.PARTITIONS_KEY, 1)


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[tuple[Deployment, Server]]:
    """Start only the API, whose stamps never change."""
    port, file = free_port(), tmp_path / "key.pem"
    file.write_bytes(KEY.pem)
    with servers.running(servers.valkey(tmp_path, port)):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment("127.0.0.1:1", port, "floods.", tmp_path) as deployment:
            store_views(deployment.redis)
            api = deployment.start_api(
                PROJECTOR_JOB_TOKEN_KEYS=str(file),
                PROJECTOR_JOB_TOKEN_ISSUER=ISSUER,
                PROJECTOR_MAX_STALENESS="300",
            )
            deployment.until(PLAIN, 200)
            yield deployment, api


def forged() -> Iterator[tuple[str, int]]:
    """Forged tokens, each another one, with the status of the answer."""
    head, claims, _ = signed(2).split(".")
    unknown = OTHER.token(2).split(".")[0]
    none = "glcbt-" + segment({"alg": "none", "kid": KEY.kid})
    for number in itertools.count():
        signature = segment(hashlib.sha512(str(number).encode()).digest() * 4)
        yield f"{head}.{claims}.{signature}", 401
        yield f"{unknown}.{claims}.{signature}", 503
        yield f"{head}.{claims}.{signature}{'A' * (8000 - len(head + claims + signature))}", 401
        yield f"{none}.{segment(claims_of(number))}.", 401


async def ask(connection: Connection, token: str) -> tuple[int, bytes]:
    reader, writer = connection
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nJob-Token: {token}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    return int(head[9:12]), await reader.readexactly(int(length[1]))


@pytest.fixture
async def connections(flooded: tuple[Deployment, Server]) -> AsyncIterator[list[Connection]]:
    port = int(flooded[0].api.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MANY + 1)]
    yield opened
    for _, writer in opened:
        writer.close()


async def test_forged_tokens_change_no_good_answer_and_leave_nothing_behind(
    flooded: tuple[Deployment, Server], connections: list[Connection]
) -> None:
    deployment, api = flooded
    over, texts, tokens = asyncio.Event(), forged(), [signed(2), signed(3), signed(2, 1)]
    good = [(PLAIN, 1), (BEHIND, 3), *zip(tokens, (2, 3, 2), strict=True)]
    sent: list[str] = []

    async def flood(connection: Connection) -> None:
        while not over.is_set():
            token, status = next(texts)
            sent.append(token)
            assert (await ask(connection, token))[0] == status

    process = psutil.Process(api.process.pid)
    asker, *rest = connections[: FLOODS + 1]
    for token, job in good:
        assert await ask(asker, token) == (200, body(job))
    before = process.memory_info().rss
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for connection in rest:
            group.create_task(flood(connection))
        for token, job in good * ROUNDS:
            assert await ask(asker, token) == (200, body(job))
        over.set()
    assert len(sent) > ROUNDS
    assert process.memory_info().rss - before < GROWTH_BYTES

    metrics = (await asyncio.to_thread(deployment.client.get, "/metrics")).text
    counted = dict(re.findall(r'signed_tokens_total\{result="([^"]+)"\} ([0-9.]+)', metrics))
    # Nothing pushed a verified token out: each was verified once.
    assert float(counted["verified"]) == len(tokens)
    assert float(counted["known"]) == len(tokens) * ROUNDS
    refused = ("bad signature", "unknown key", "malformed", "wrong algorithm")
    assert sum(float(counted[result]) for result in refused) == len(sent)
    assert "projector_api_misses_waiting 0.0" in metrics
    log = api.log()
    assert log.count("unknown key") <= 13
    secret = {part for token in [*sent, *tokens] for part in token.split(".")[1:] if part}
    assert not [part for part in secret if part in log or part in metrics]
    assert len(deployment.redis.keys("*")) == 6


async def test_a_known_token_waits_for_few_verifications_of_many_connections(
    flooded: tuple[Deployment, Server], connections: list[Connection]
) -> None:
    """In the time of one known lookup some 15 are verified; without the queue 100."""
    over, known, answered = asyncio.Event(), signed(2), 0
    head, claims, _ = known.split(".")

    async def flood(connection: Connection, number: int) -> None:
        nonlocal answered
        while not over.is_set():
            text = f"{number} {answered}".encode()
            forged = segment(hashlib.sha512(text).digest() * 4)
            assert (await ask(connection, f"{head}.{claims}.{forged}"))[0] == 401
            answered += 1

    asker, *rest = connections
    assert await ask(asker, known) == (200, body(2))
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number, connection in enumerate(rest):
            group.create_task(flood(connection, number))
        for _ in range(LOOKUPS):
            assert await ask(asker, known) == (200, body(2))
        over.set()
    assert MANY < answered < MOST_PER_LOOKUP * LOOKUPS
