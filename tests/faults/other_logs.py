"""A topic that is deleted, made again, and filled beyond the offsets that were applied."""

import asyncio
import json
import time
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from projector.events.model import Topic
from projector.kafka.topic_configs import CONFIGS
from tests.faults.namespaces import Event, ScriptedNamespace
from tests.faults.scenario import SEND_S, Scenario
from tests.faults.traffic import SentEvent
from tests.integration.deployment import PARTITIONS

# Beyond the offsets that were applied.
MORE: Final = 50
RETRY_S: Final = 0.02


def replace_membership(scenario: Scenario, victim: ScriptedNamespace) -> None:
    """Make the topic again; its first event in the victim's partition is a revocation."""
    name = scenario.deployment.prefix + Topic.MEMBERSHIP
    applied = applied_offset(scenario, victim.partition)
    assert applied > 0
    scenario.deployment.administrate(lambda admin: recreate(admin, name))
    filling = fill(scenario, name, victim, applied + MORE)
    scenario.background.run(filling, SEND_S)
    scenario.add_proof(f"{applied + MORE} events where {applied} were applied")


def applied_offset(scenario: Scenario, partition: int) -> int:
    key = f"allowed-agents:partition:{{{partition}}}"
    return int(scenario.deployment.redis.hget(key, "offset:membership") or 0)


async def recreate(admin: AIOKafkaAdminClient, name: str) -> None:
    """Delete the topic, and create it as soon as Kafka lets it be."""
    await admin.delete_topics([name])
    topic = NewTopic(name, PARTITIONS, 1, topic_configs=CONFIGS[Topic.MEMBERSHIP])
    while True:
        response = await admin.create_topics([topic])
        error = for_code(response.topic_errors[0][1])
        if error is not TopicAlreadyExistsError:
            assert response.topic_errors[0][1] == 0, error
            return
        await asyncio.sleep(RETRY_S)


async def fill(scenario: Scenario, name: str, victim: ScriptedNamespace, count: int) -> None:
    """Send the revocation, then events that change nothing."""
    # A producer that has written to the former topic could not go on.
    producer = AIOKafkaProducer(bootstrap_servers=scenario.deployment.kafka, acks="all")
    await producer.start()
    try:
        sent = time.monotonic()
        revoked = victim.revoked()
        await send(producer, name, victim, revoked)
        history = scenario.traffic.histories[victim.root].events
        history.append(SentEvent(revoked, sent, time.monotonic()))
        neutral = victim.foundation()[0]
        await asyncio.gather(*(send(producer, name, victim, neutral) for _ in range(count)))
    finally:
        await producer.stop()


async def send(producer: Any, name: str, victim: ScriptedNamespace, event: Event) -> None:
    value, key = json.dumps(event).encode(), victim.root.encode()
    await producer.send_and_wait(name, value, key, victim.partition)
