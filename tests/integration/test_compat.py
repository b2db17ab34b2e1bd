"""The table of cases over HTTP, all at once in one deployment."""

import asyncio
import json
from collections import defaultdict

import pytest
from aiokafka import AIOKafkaProducer

from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from tests.compat.table import APART, Case, Message, load
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually

CASES = load()
# A membership that ends sooner might end between feeding and lookup.
SAFELY_S = 600


def now_s(deployment: Deployment) -> float:
    seconds, microseconds = deployment.redis.time()
    return float(seconds + microseconds / 1e6)


def produce_all(deployment: Deployment, messages: list[Message]) -> None:
    """Send the events without `projector feed`, which would refuse some of them."""

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=deployment.kafka, acks="all", linger_ms=5)
        async with producer:
            for message in messages:
                kind, root = EVENT_TYPES[message["type"]], message["partitionkey"]
                value, topic = json.dumps(message).encode(), deployment.prefix + kind.topic
                own = [partition_of(root, PARTITIONS)]
                for partition in range(PARTITIONS) if kind.broadcast else own:
                    await producer.send(topic, value, root.encode(), partition)
            await producer.flush()

    asyncio.run(send())


def until_applied(deployment: Deployment) -> None:
    """Wait until every partition is fresh as of a time after the last event."""
    sent_ms = now_s(deployment) * 1000
    keys = [f"allowed-agents:partition:{{{p}}}" for p in range(PARTITIONS)]
    eventually(
        lambda: all(int(deployment.redis.hget(key, "stamp") or 0) > sent_ms for key in keys),
        "every partition fresh",
    )


def reported(deployment: Deployment, count: int) -> dict[int, str]:
    """Return the reasons of the dead letters by number of the case."""
    reasons: defaultdict[int, str] = defaultdict(str)
    for letter in deployment.dead_letters(count):
        root = int(json.loads(letter.value or b"")["partitionkey"])
        reasons[root // APART] += letter.headers["dead-letter-reason"]
    return reasons


@pytest.mark.parametrize("kafka", ["embedded"], indirect=True)
@pytest.mark.parametrize("minimum_role", sorted({case.minimum_role for case in CASES}))
def test_every_case_end_to_end(deployment: Deployment, minimum_role: str) -> None:
    cases = [case for case in CASES if case.minimum_role == minimum_role]
    deployment.env["PROJECTOR_MINIMUM_ROLE"] = minimum_role
    deployment.start_all()
    begun = now_s(deployment)
    produce_all(
        deployment, [message for case in cases for message in case.messages(begun - case.at)]
    )
    until_applied(deployment)
    shared = {agent for case in cases for agent in case.shared_agents()}
    letters = reported(deployment, sum("reported" in case.answer for case in cases))
    assert {c.number for c in cases if "reported" in c.answer} == letters.keys()
    faults = {case.name: found for case in cases if (found := wrong(deployment, case, shared))}
    unsaid = {
        c.name for c in cases if c.answer.get("reported", "") not in c.own_text(letters[c.number])
    }
    assert (faults, unsaid) == ({}, set())


def wrong(deployment: Deployment, case: Case, shared: set[int]) -> list[str]:
    answer = deployment.look_up(case.token())
    return case.faults(answer.status, case.own(answer.body, shared - case.shared_agents()))


def test_no_case_ends_while_it_is_looked_at() -> None:
    """Each event's `expires_in` is before the lookup, or well after it."""
    for case in CASES:
        ends = [
            data.get("expires_in", case.at) - case.at
            for e in case.events
            for data in e.values()
            if isinstance(data, dict)
        ]
        assert all(end <= 0 or end > SAFELY_S for end in ends), case.name
