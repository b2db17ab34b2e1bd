"""The ingest of a deployment, and its clients."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.integration.deployment import Deployment
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually

BATCH = "application/cloudevents-batch+json"
EVERYTHING: dict[str, Any] = {"types": ["*"], "partitionkeys": "*", "sources": "*"}
ALL = "a-token-with-every-right"


def feeder(token: str, **rights: Any) -> dict[str, Any]:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return {"name": token[:9].strip("-"), "token_sha256": digest, **EVERYTHING, **rights}


class Ingest:
    """One process of `projector ingest`, with a file of tokens of its own."""

    def __init__(self, deployment: Deployment, *feeders: dict[str, Any], **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file: Path = deployment.folder / f"tokens-{self.port}.json"
        self.write(*feeders or (feeder(ALL, heartbeats=["acme"]),))
        self._environment = {"PROJECTOR_INGEST_TOKENS_FILE": str(self.file)} | env
        self.process: Server = deployment.start(
            "ingest", "--port", str(self.port), **self._environment
        )
        self.until_ready()

    def write(self, *feeders: dict[str, Any]) -> None:
        """Replace the file as a whole, as operators should."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(feeders))
        fresh.rename(self.file)

    def until_ready(self) -> None:
        eventually(lambda: self.status("/health/ready") == 200, "the ingest ready")

    def status(self, path: str) -> int:
        try:
            return httpx.get(self.url + path).status_code
        except httpx.TransportError:
            return 0

    def post(self, *events: Any, token: str = ALL, **headers: str) -> httpx.Response:
        """Post a batch; `_` in names of headers is `-`."""
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        return httpx.post(
            f"{self.url}/events", content=json.dumps(events), timeout=40,
            headers={"authorization": f"Bearer {token}", "content-type": BATCH, **given},
        )  # fmt: skip

    def apply(self, *events: Any, token: str = ALL) -> None:
        """Post a batch, and wait until the views contain it."""
        answer = self.post(*events, token=token, prefer="wait=20")
        assert answer.status_code == 204, answer.text
        assert answer.headers["preference-applied"] == "wait=20"


def pulse(source: str, after: int | None) -> dict[str, Any]:
    """Return a heartbeat as a client sends it."""
    data = {"source": source, "after": after}
    return {"specversion": "1.0", "id": "h", "source": "/acme", "type": "source.heartbeat",
            "data": data}  # fmt: skip


@contextmanager
def beating(*ingests: Ingest, source: str = "acme") -> Iterator[None]:
    """Send heartbeats as a client with nothing but HTTP does, by each ingest in turn.

    Changes of the source are posted elsewhere, and so acknowledged before they count.
    """
    stopped = threading.Event()

    def beat() -> None:
        after = None
        number = 0
        while not stopped.wait(0.25):
            answer = ingests[number % len(ingests)].post(pulse(source, after))
            after = answer.json()["heartbeat"]["offset"] if answer.status_code == 200 else None
            number += 1

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
