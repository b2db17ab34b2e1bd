"""Every command and the worker on a database whose number of partitions cannot be read."""

import os
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from typer.testing import CliRunner

from projector.cli.main import app
from projector.cli.terminal import WRONG
from projector.clients import redis_client, redis_servers
from projector.events.model import DEAD_LETTERS, Topic
from projector.kafka import topics
from projector.store import schema
from tests.unit.store.test_partition_count import SENTENCE

EXPORT = Path(__file__).parents[3] / "examples" / "events.ndjson"


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    """The Redis of every command; Kafka is only asked how many partitions its topics have."""
    for name in [name for name in os.environ if name.upper().startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROJECTOR_KAFKA", "127.0.0.1:1")
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    server = fakeredis.FakeServer()

    def create_redis(*_: object) -> Any:
        return fakeredis.FakeAsyncRedis(server=server)

    async def check_topics(*_: object) -> dict[str, int]:
        return {**dict.fromkeys(Topic, 4), DEAD_LETTERS: 1}

    async def allow(*_: object) -> None:
        """Without INFO, which the fake Redis does not have."""

    monkeypatch.setattr(redis_client, "create_redis", create_redis)
    monkeypatch.setattr(redis_servers, "refuse_eviction", allow)
    monkeypatch.setattr(topics, "check_topics", check_topics)
    return server


@pytest.mark.parametrize("kind", ["another type", "no number"])
@pytest.mark.parametrize(
    "command",
    [
        ("worker",),
        ("rebuild", "--dry-run"),
        ("verify",),
        ("audit", str(EXPORT)),
        ("explain", "9"),
        ("inspect", "job", "9"),
        ("inspect", "partition", "0"),
        ("inspect", "agent", "5"),
    ],
    ids=lambda words: " ".join(word for word in words[:2] if "/" not in word),
)
def test_every_command_ends_with_the_same_sentence(
    server: fakeredis.FakeServer, command: tuple[str, ...], kind: str
) -> None:
    """Status 2: a supervisor that restarts the worker changes nothing."""
    redis = fakeredis.FakeRedis(server=server)
    if kind == "another type":
        redis.rpush(schema.PARTITIONS_KEY, "4")
    else:
        redis.set(schema.PARTITIONS_KEY, "abc")
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr) == (WRONG, SENTENCE + "\n")
