"""Metrics of an API with several processes."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from projector.ports import is_listening
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.builders import digest
from tests.integration import servers
from tests.integration.deployment import PATH
from tests.integration.ports import free_port

TOKEN = "token-9"
LOOKUPS = 40


class TwoProcessApi:
    def __init__(self, http: httpx.Client, server: servers.Server) -> None:
        self.http = http
        self.server = server

    def get(self, path: str, token: str = "") -> httpx.Response:
        return self.http.get(path, headers={"Job-Token": token})

    def sample(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.get("/metrics").text)
        values = [
            sample.value for family in families for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]  # fmt: skip
        assert len(values) == 1, f"{len(values)} samples of {name}"
        return values[0]

    def processes(self) -> list[int]:
        """List the processes that answer: all children except Python's resource tracker."""
        tasks = Path(f"/proc/{self.server.process.pid}/task").iterdir()
        children = [int(n) for task in tasks for n in (task / "children").read_text().split()]
        return [n for n in children if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]


# The command of docs/operations.md for operators who start uvicorn themselves.
UVICORN = [
    "--factory", "projector.asgi:create_api", "--http", "projector.asgi:LookupProtocol",
    "--ws", "none", "--limit-concurrency", "1000", "--no-access-log", "--no-server-header",
    "--log-level", "error",
]  # fmt: skip


@pytest.fixture(params=["projector", "uvicorn"])
def api(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TwoProcessApi]:
    """Start an API of two processes, on a Redis with one live token that is fresh for an hour."""
    with ExitStack() as stack:
        redis_port, port = free_port(), free_port()
        stack.enter_context(servers.running(servers.valkey(tmp_path, redis_port)))
        servers.eventually(lambda: is_listening(redis_port), "Valkey listening")
        client: Any = stack.enter_context(redis.Redis(port=redis_port))
        client.set(schema.PARTITIONS_KEY, 1)
        stamp = {"stamp": int(time.time() * 1000), "stamp_epoch": 7, "epoch": 7}
        client.hset(schema.partition_key(0), mapping=stamp)
        record = ViewRecord(200, 0, Version(7, 1), b"{}").encode()
        client.set(schema.record_key(digest(TOKEN)), record)
        env = {
            "PROJECTOR_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "PROJECTOR_MAX_STALENESS": "3600",
            "PROJECTOR_MISS_GRACE": "9",
            "TMPDIR": str(tmp_path),
        }
        if request.param == "uvicorn":
            env["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / "projector-counts")
            (tmp_path / "projector-counts").mkdir()
        command = ["api"] if request.param == "projector" else UVICORN
        command = [*command, "--port", str(port), "--workers", "2"]
        server = servers.projector(command, tmp_path / "api.log", env, module=request.param)
        stack.enter_context(servers.running(server))
        servers.eventually(lambda: is_listening(port), f"the API listening: {server.log()}")
        # A new connection per request, so that either process may answer.
        limits = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{port}"
        http = stack.enter_context(httpx.Client(base_url=url, limits=limits, timeout=10))
        found = TwoProcessApi(http, server)
        servers.eventually(lambda: len(found.processes()) == 2, "two processes")
        servers.eventually(lambda: found.get(PATH, TOKEN).status_code == 200, "an answer")
        yield found
        server.stop()


def counted(api: TwoProcessApi) -> float:
    return api.sample("projector_api_lookup_seconds_count", status="200")


def counts_of_both(api: TwoProcessApi) -> set[float]:
    """Ask so often that either process answers; each keeps its exposition for a moment."""
    return {counted(api) for _ in range(LOOKUPS)}


def settled(api: TwoProcessApi) -> float:
    """Return the count once it is stable: each process adds its own four times a second."""
    counts = [counts_of_both(api)]

    def stays() -> bool:
        time.sleep(0.5)
        counts.append(counts_of_both(api))
        return len(counts[-1]) == 1 and counts[-1] == counts[-2]

    servers.eventually(stays, "no more lookups counted")
    return counts[-1].pop()


def test_whichever_process_is_asked_the_sum_is_right(api: TwoProcessApi, tmp_path: Path) -> None:
    before = settled(api)
    for _ in range(LOOKUPS):
        assert api.get(PATH, TOKEN).status_code == 200
    both = {before + LOOKUPS}
    servers.eventually(lambda: counts_of_both(api) == both, "the sum from either process")
    counting = {path.name for path in tmp_path.glob("projector-*/histogram_*.db")}
    assert len(counting) >= 2, "only one process answered; this run proves nothing"


def test_what_a_process_counted_outlasts_it_and_its_waiting_does_not(api: TwoProcessApi) -> None:
    assert api.get(PATH, TOKEN).status_code == 200
    before = settled(api)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(api.get, PATH, "nobody-has-this-one")
        servers.eventually(lambda: api.sample("projector_api_misses_waiting") == 1, "a miss waits")
        victims = api.processes()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            waiting.result()
    servers.eventually(lambda: _are_new(api, victims), "new processes")
    assert counted(api) == before
    assert api.sample("projector_api_misses_waiting") == 0


def _are_new(api: TwoProcessApi, victims: list[int]) -> bool:
    try:
        answers = api.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False
    return answers and not set(victims) & set(api.processes())
