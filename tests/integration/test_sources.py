"""Sources end to end: stamps wait for heartbeats, and answers never outlive a source's silence."""

import time

import pytest

from projector.config.settings import Settings
from projector.store import schema
from tests import builders
from tests.heartbeat_sender import HeartbeatSender, sending
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually

BOUND_S = 2.0
# Until a stamp after the source's return: the probe, two heartbeats, the poll of the API.
BACK_S = 1.0


@pytest.fixture
def waiting(deployment: Deployment) -> Deployment:
    """The product with a bound of two seconds, and a source that was never heard."""
    deployment.env |= {
        "PROJECTOR_SOURCES": "gitlab",
        "PROJECTOR_MAX_STALENESS": str(BOUND_S),
        "PROJECTOR_MISS_GRACE": "1.5",
    }
    assert deployment.command("topics").returncode == 0
    deployment.start("worker")
    deployment.start_api()
    return deployment


def new_sender(deployment: Deployment, source: str = "gitlab") -> HeartbeatSender:
    settings = Settings(kafka=deployment.kafka, topic_prefix=deployment.prefix)
    return HeartbeatSender(settings, PARTITIONS, source)


def silent(deployment: Deployment) -> list[str]:
    """Return the fields without the times of the notes."""
    fields = (deployment.redis.hget(schema.partition_key(p), "silent") for p in range(PARTITIONS))
    return [field.decode().rpartition(" ")[0] for field in fields if field]


def stamps(deployment: Deployment) -> list[int]:
    fields = (deployment.redis.hget(schema.partition_key(p), "stamp") for p in range(PARTITIONS))
    return [int(field or 0) for field in fields]


def test_a_source_that_stops_makes_answers_stale_and_its_return_makes_them_fresh(
    waiting: Deployment,
) -> None:
    eventually(lambda: silent(waiting) == ["gitlab 0"] * PARTITIONS, "silence noted")
    assert not any(stamps(waiting))
    assert waiting.get("/health/fresh").status == 503
    with sending(new_sender(waiting)):
        waiting.until_fresh()
        waiting.feed(builders.group(3), builders.project(7, 3), builders.started(9, 7))
        waiting.until("token-9", 200)
        assert waiting.look_up("no-such-token").status == 401
        assert silent(waiting) == []

    stopped = time.monotonic()
    waiting.feed(builders.started(10, 7))
    eventually(lambda: len(silent(waiting)) == PARTITIONS, "silence noted again")
    last = stamps(waiting)
    assert sorted(silent(waiting)) == sorted(f"gitlab {stamp}" for stamp in last)
    time.sleep(max(0.0, stopped + BOUND_S + 1 - time.monotonic()))
    assert waiting.look_up("token-9").status == 503
    # Started after the source fell silent, as far as anyone knows.
    assert waiting.look_up("token-11").status == 503
    assert stamps(waiting) == last

    with sending(sender := new_sender(waiting)):
        eventually(lambda: sender.sent >= 2, "two heartbeats")
        back = time.monotonic()
        eventually(lambda: waiting.look_up("token-10").status == 200, "fresh again")
        assert time.monotonic() - back < BACK_S
        eventually(lambda: waiting.get("/health/fresh").status == 200, "all fresh")
        assert waiting.look_up("token-11").status == 401
        assert silent(waiting) == []
