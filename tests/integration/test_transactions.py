"""Events sent in transactions: committed ones apply, aborted ones never do."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually

# The embedded broker is for trials only.
pytestmark = pytest.mark.parametrize("kafka", ["apache"], indirect=True)

COMPANY = [
    builders.group(3),
    builders.project(7, 3),
    builders.agent(5, 7),
    builders.member(1, group_id=3),
    builders.started(9, 7),
    builders.started(10, 7, 2),
]
GRANT = builders.member(2, group_id=3)
AGENT = builders.agent(6, 7)
FINISHED = builders.removed("job", 9)


def send(deployment: Deployment, events: Sequence[dict[str, Any]], *, commit: bool) -> None:
    """Send the events in one transaction."""

    async def run() -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=deployment.kafka, transactional_id=f"{deployment.prefix}sender"
        ) as producer:
            await producer.begin_transaction()
            for event in events:
                root = event["partitionkey"]
                await producer.send_and_wait(
                    deployment.prefix + EVENT_TYPES[event["type"]].topic,
                    json.dumps(event).encode(),
                    root.encode(),
                    partition_of(root, PARTITIONS),
                )
            await (producer.commit_transaction() if commit else producer.abort_transaction())

    asyncio.run(run())


def test_an_aborted_grant_is_never_applied(deployment: Deployment) -> None:
    """Not by deliveries, not by a worker that reads everything, and not by a rebuild."""
    worker = deployment.start_all()
    send(deployment, COMPANY, commit=True)
    deployment.until_agents("token-9", 5)
    send(deployment, [GRANT, AGENT, FINISHED], commit=False)
    send(deployment, [builders.agent(8, 7)], commit=True)
    deployment.until_agents("token-9", 5, 8)
    assert deployment.agents("token-10") == []
    worker.stop()
    deployment.redis.flushall()
    worker.start()
    deployment.until_agents("token-9", 5, 8)
    assert deployment.agents("token-10") == []
    assert deployment.command("rebuild", "--dry-run").returncode == 0
    assert "bad event" not in worker.log()
    send(deployment, [GRANT, FINISHED], commit=True)
    deployment.until_agents("token-10", 5, 8)
    deployment.until("token-9", 401)
    eventually(lambda: deployment.get("/health/fresh").status == 200, "every partition fresh")
