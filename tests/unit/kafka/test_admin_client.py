"""Questions to Kafka while brokers that it still names are down."""

import random
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.structs import BrokerMetadata

from projector.kafka.admin_client import AnyBrokerAdmin

BROKERS = range(1, 6)


class Cluster:
    """The connections of aiokafka's client, to brokers of which some are down."""

    def __init__(self, up: set[int], error: type[Exception]) -> None:
        self.asked: list[int | None] = []
        self.cluster = self
        self._up = up
        self._error = error

    def brokers(self) -> set[BrokerMetadata]:
        return {BrokerMetadata(number, "kafka", 9092, None) for number in BROKERS}

    def get_random_node(self) -> int:
        return random.choice(BROKERS)

    async def send(self, node: int | None, _request: object) -> str:
        self.asked.append(node)
        if node not in self._up:
            raise self._error
        return f"answer of {node}"


def admin_of(cluster: Any) -> AnyBrokerAdmin:
    admin = AnyBrokerAdmin.__new__(AnyBrokerAdmin)
    admin._client = cluster
    return admin


@pytest.mark.parametrize("error", [KafkaConnectionError, NodeNotReadyError, RequestTimedOutError])
async def test_the_one_broker_that_is_up_answers(error: type[Exception]) -> None:
    for _ in range(20):
        cluster = Cluster({3}, error)
        assert await admin_of(cluster)._send_request("topics") == "answer of 3"
        assert len(cluster.asked) == len({*cluster.asked})


async def test_each_broker_is_asked_once_before_the_error_of_the_last() -> None:
    cluster = Cluster(set(), NodeNotReadyError)
    with pytest.raises(NodeNotReadyError):
        await admin_of(cluster)._send_request("topics")
    assert sorted(filter(None, cluster.asked)) == [*BROKERS]


async def test_a_question_to_one_broker_is_for_that_broker() -> None:
    cluster = Cluster({3}, NodeNotReadyError)
    with pytest.raises(NodeNotReadyError):
        await admin_of(cluster)._send_request("its own configuration", 4)
    assert cluster.asked == [4]
