"""Questions to one broker: the version that it has, and what it says of leaders and offsets."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)

from projector.kafka.broker_protocol import (
    LATEST,
    NO_BROKER,
    NO_EPOCH,
    Address,
    PartitionLeader,
    ask_leaders,
    ask_minimum_in_sync,
    ask_offsets,
)

METADATA = 3
TOPIC_ID = UUID(int=7)
# A topic's partitions: error, number, leader, epoch, replicas, in sync, offline.
PARTITIONS: list[Any] = [(0, 0, 2, 5, [1, 2, 3], [2, 3], [1]), (5, 1, -1, 6, [1, 2], [], [1, 2])]
REFUSED = 29


class Broker:
    """A connection to a broker that has the versions up to `newest` of Metadata."""

    def __init__(self, oldest: int, newest: int) -> None:
        self._versions = {METADATA: (oldest, newest)}
        self.asked: Any = None

    async def send(self, request: Any) -> Any:
        self.asked = request.prepare(self._versions)
        self.asked.encode()
        answer = self.asked.RESPONSE_TYPE
        return answer.decode(BytesIO(answer(**self._fields(self.asked.API_VERSION)).encode()))

    def _fields(self, version: int) -> dict[str, Any]:
        tags: tuple[Any, ...] = ({},) if version >= 10 else ()
        older = {1: (0, 1, 2, 4, 5), 4: (0, 1, 2, 4, 5)}.get(version, range(7))
        found = [(*(each[i] for i in older), *tags) for each in PARTITIONS]
        identity = (TOPIC_ID,) if version >= 10 else ()
        operations = (0,) if version >= 10 else ()
        brokers = [(2, "kafka-2.example", 9092, None, *tags)]
        topics = [
            (0, "membership", *identity, False, found, *operations, *tags),
            (REFUSED, "agent-config", *identity, False, [], *operations, *tags),
        ]
        fields = {"brokers": brokers, "controller_id": 2, "topics": topics}
        if version >= 4:
            fields |= {"throttle_time_ms": 0, "cluster_id": None}
        return fields | ({"authorized_operations": 0, "tags": {}} if tags else {})


@pytest.mark.parametrize(
    ("newest", "version", "epoch", "topic_id"),
    [
        (3, 1, NO_EPOCH, None), (5, 4, NO_EPOCH, None), (6, 4, NO_EPOCH, None),
        (9, 7, 5, None), (10, 10, 5, TOPIC_ID), (13, 10, 5, TOPIC_ID),
    ],
)  # fmt: skip
async def test_a_broker_is_asked_in_the_newest_version_that_it_has(
    newest: int, version: int, epoch: int, topic_id: UUID | None
) -> None:
    broker: Any = Broker(0, newest)
    answer = await ask_leaders(broker, ["membership", "agent-config"])
    assert version == broker.asked.API_VERSION
    assert answer.addresses == {2: Address("kafka-2.example", 9092)}
    assert set(answer.leaders) == {TopicPartition("membership", p) for p in (0, 1)}
    leader = answer.leaders[TopicPartition("membership", 0)]
    assert leader == PartitionLeader(2, epoch, frozenset({1, 2, 3}), topic_id)
    assert answer.leaders[TopicPartition("membership", 1)].leader == NO_BROKER


@pytest.mark.parametrize("newest", [4, 9, 13])
async def test_the_question_creates_no_topic(newest: int) -> None:
    broker: Any = Broker(0, newest)
    await ask_leaders(broker, ["membership"])
    assert broker.asked.allow_auto_topic_creation is False


async def test_an_old_broker_is_asked_for_all_topics_since_a_name_might_create_one() -> None:
    broker: Any = Broker(0, 3)
    await ask_leaders(broker, ["membership"])
    assert broker.asked.topics is None


async def test_a_broker_without_a_version_in_common_is_an_error_of_kafka() -> None:
    broker: Any = Broker(11, 99)
    with pytest.raises(IncompatibleBrokerVersion):
        await ask_leaders(broker, ["membership"])


# offsets, and configuration

TP = TopicPartition("membership", 0)
LEADER = PartitionLeader(2, 5, frozenset({2}), None)


class Leader:
    """A connection to a leader with the versions up to `newest` of ListOffsets."""

    def __init__(self, newest: int, code: int = 0) -> None:
        self._newest = newest
        self._code = code
        self.asked: Any = None

    async def send(self, request: Any) -> Any:
        self.asked = request.prepare({2: (0, self._newest)})
        answer = self.asked.RESPONSE_TYPE
        epoch = (5,) if self.asked.API_VERSION >= 4 else ()
        found = [("membership", [(0, self._code, -1, 42, *epoch)])]
        fields = {"throttle_time_ms": 0, "topics": found} if epoch else {"topics": found}
        decoded = type(self.asked).decode(BytesIO(self.asked.encode()))
        assert decoded.encode() == self.asked.encode()
        return answer.decode(BytesIO(answer(**fields).encode()))


@pytest.mark.parametrize(("newest", "asked"), [(3, (0, -1)), (4, (0, 5, -1)), (10, (0, 5, -1))])
async def test_a_leader_is_asked_at_its_epoch_where_the_broker_has_that(
    newest: int, asked: tuple[int, ...]
) -> None:
    connection: Any = Leader(newest)
    assert await ask_offsets(connection, {TP: LEADER}, LATEST) == {TP: 42}
    assert connection.asked.topics == [("membership", [asked])]


@pytest.mark.parametrize("code", [6, 74, 75])
async def test_a_leader_of_another_epoch_is_not_the_leader(code: int) -> None:
    connection: Any = Leader(4, code)
    refusal = (await ask_offsets(connection, {TP: LEADER}, LATEST))[TP]
    assert isinstance(refusal, NotLeaderForPartitionError)
    assert "membership 0" in str(refusal)


async def test_any_other_refusal_is_an_error_of_kafka() -> None:
    connection: Any = Leader(4, 29)
    refusal = (await ask_offsets(connection, {TP: LEADER}, LATEST))[TP]
    assert isinstance(refusal, TopicAuthorizationFailedError)


async def test_a_minimum_that_is_hidden_or_no_number_is_left_out() -> None:
    name = "min.insync.replicas"
    resources = [
        (0, "", 2, "shown", [("cleanup.policy", "delete"), (name, "2")]),
        (REFUSED, "", 2, "hidden", []), (0, "", 2, "missing", []), (0, "", 2, "odd", [(name, "x")]),
    ]  # fmt: skip

    class Configured:
        async def send(self, request: Any) -> Any:
            request.prepare({32: (0, 4)}).encode()
            return SimpleNamespace(resources=resources)

    connection: Any = Configured()
    assert await ask_minimum_in_sync(connection, ["shown", "hidden"]) == {"shown": 2}
