"""An ingest whose Kafka is a list: feeders, requests, and what was sent."""

import hashlib
import json
from pathlib import Path
from typing import Any

import fakeredis
import httpx

from projector.config.settings import Settings
from projector.events.model import KafkaRecord, Topic
from projector.feed.applied import Positions
from projector.ingest.app import create_application
from projector.ingest.checks import CheckedEvent, GivenHeartbeat
from projector.ingest.feeder_file import FeederFile
from projector.ingest.http_events import BATCH_TYPE, STRUCTURED_TYPE
from projector.ingest.intake import Intake
from projector.ingest.readiness import Readiness

ALL = "the-token-of-all"
IAM = "the-token-of-iam"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def feeder(name: str, token: str, **rights: Any) -> dict[str, Any]:
    everything = {"types": ["*"], "partitionkeys": "*", "sources": "*"}
    return {"name": name, "token_sha256": digest(token), **everything, **rights}


FEEDERS = [
    feeder("all", ALL, heartbeats=["acme"]),
    feeder("iam", IAM, types=["group.*", "member.*"], partitionkeys=["3"], sources=["/acme/*"]),
]


class Sends:
    """The way to Kafka; raises `error` if there is one."""

    def __init__(self) -> None:
        self.sent: list[KafkaRecord] = []
        self.error: Exception | None = None
        self.ids: dict[Topic, str] = {}

    async def topic_ids(self) -> dict[Topic, str]:
        if self.error:
            raise self.error
        return self.ids

    async def send(self, events: list[CheckedEvent], _partitions: int) -> Positions:
        if self.error:
            raise self.error
        self.sent += [record for _, record in events]
        return {(event.kind.topic, 0): 1 for event, _ in events}

    async def stop(self) -> None: ...


class Heartbeats:
    def __init__(self) -> None:
        self.sent: list[GivenHeartbeat] = []

    async def send(self, heartbeat: GivenHeartbeat, _partitions: int) -> int:
        self.sent.append(heartbeat)
        return 100 + len(self.sent)


class IngestWorld:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.json"
        self.write(FEEDERS)
        self.tokens = FeederFile(self.file)
        settings = Settings(kafka="127.0.0.1:1")
        self.readiness = Readiness(settings)
        self.readiness._note(self.readiness._changed(4))
        self.readiness._has_sources = True
        self.redis = fakeredis.FakeAsyncRedis()
        self.intake = Intake(settings, self.tokens, self.readiness, self.redis)
        self.sends = self.intake._sends = Sends()  # type: ignore[assignment]
        self.heartbeats = self.intake._heartbeats = Heartbeats()  # type: ignore[assignment]
        app = create_application(self.intake, self.tokens, self.readiness)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t")

    def write(self, feeders: Any) -> None:
        self.file.write_text(json.dumps(feeders))

    async def post(
        self, body: Any, token: str | None = ALL, media_type: str = STRUCTURED_TYPE, **headers: str
    ) -> httpx.Response:
        """Send the body, as JSON unless it is bytes; `_` in names of headers is `-`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        if media_type:
            given["content-type"] = media_type
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return await self.http.post("/events", content=content, headers=given)

    async def post_batch(self, *events: Any, **headers: str) -> httpx.Response:
        return await self.post(list(events), media_type=BATCH_TYPE, **headers)


def reasons(response: httpx.Response) -> dict[int, str]:
    """Return the reasons of a refusal by index."""
    return {error["index"]: error["reason"] for error in response.json()["errors"]}


def record(value: Any, *headers: tuple[str, bytes]) -> KafkaRecord:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return KafkaRecord(Topic.MEMBERSHIP, 0, 0, 1_800_000_000_000, None, content, headers)
