"""Questions to one broker: leaders of partitions with their epochs, and offsets of that epoch.

aiokafka's own requests ask for no leader epoch and no topic id. The versions here do, as far as the
broker has them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol import metadata
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    String,
    TaggedFields,
)

NO_BROKER: Final = -1
# Of a broker that reports no epoch.
NO_EPOCH: Final = -1
_METADATA: Final = 3


class PartitionLeader(NamedTuple):
    """One partition's leader, its epoch and the replicas, as one broker names them.

    `leader` is `NO_BROKER` if the partition has none. A broker may report no epoch (`NO_EPOCH`) and
    no topic id.
    """

    leader: int
    epoch: int
    replicas: tuple[int, ...]
    topic_id: UUID | None = None


class Address(NamedTuple):
    """The place where a broker listens for clients."""

    host: str
    port: int


class BrokerAnswer(NamedTuple):
    """The brokers and the leaders that one broker knows."""

    addresses: Mapping[int, Address]
    leaders: Mapping[TopicPartition, PartitionLeader]


async def ask_leaders(connection: AIOKafkaConnection, topics: Iterable[str]) -> BrokerAnswer:
    """Ask one broker for the leaders of these topics' partitions; creates no topic.

    Topics that the broker does not know, or does not show to this user, are left out.
    Raises `KafkaError` and `TimeoutError`.
    """
    wanted = list(topics)
    response = await _send(connection, _LeadersRequest(wanted))
    addresses = {node: Address(host, port) for node, host, port, *_ in response.brokers}
    return BrokerAnswer(addresses, _leaders(response, frozenset(wanted)))


def _leaders(response: Any, wanted: frozenset[str]) -> dict[TopicPartition, PartitionLeader]:
    leaders = {}
    for topic in response.topics:
        code, name = topic[:2]
        if code or name not in wanted:
            continue
        topic_id, partitions = response.split_topic(topic)
        for _, partition, leader, *rest in partitions:
            epoch, replicas = response.split_partition(rest)
            leaders[TopicPartition(name, partition)] = PartitionLeader(
                leader, epoch, tuple(replicas), topic_id
            )
    return leaders


async def _send(connection: AIOKafkaConnection, request: Request[Any]) -> Any:
    try:
        return await connection.send(request)
    except NotImplementedError as error:
        raise IncompatibleBrokerVersion(str(error)) from None


class _Uuid(AbstractType[UUID | None]):  # type: ignore[misc]
    """A topic id; Kafka writes zeros for none."""

    @classmethod
    def encode(cls, value: UUID | None) -> bytes:
        return value.bytes if value else bytes(16)

    @classmethod
    def decode(cls, data: Any) -> UUID | None:
        read = data.read(16)
        return UUID(bytes=read) if any(read) else None


# Metadata, versions by what they add: 4 creates no topic, 7 has leader epochs, 10 has topic ids.


class _OldLeaders:
    """The parts of an answer without epochs and topic ids."""

    @staticmethod
    def split_topic(topic: Any) -> tuple[UUID | None, Any]:
        return None, topic[3]

    @staticmethod
    def split_partition(rest: Any) -> tuple[int, Any]:
        return NO_EPOCH, rest[0]


class _LeadersResponseV1(_OldLeaders, metadata.MetadataResponse_v1):  # type: ignore[misc]
    pass


class _LeadersResponseV4(_OldLeaders, metadata.MetadataResponse_v4):  # type: ignore[misc]
    pass


class _LeadersResponseV7(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("id", Int32), ("host", String()), ("port", Int32), ("rack", String())),
        ),
        ("cluster_id", String()),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("name", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline", Array(Int32)),
                    ),
                ),
            ),
        ),
    )

    @staticmethod
    def split_topic(topic: Any) -> tuple[UUID | None, Any]:
        return None, topic[3]

    @staticmethod
    def split_partition(rest: Any) -> tuple[int, Any]:
        return rest[0], rest[1]


class _LeadersResponseV10(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )

    @staticmethod
    def split_topic(topic: Any) -> tuple[UUID | None, Any]:
        return topic[2], topic[4]

    @staticmethod
    def split_partition(rest: Any) -> tuple[int, Any]:
        return rest[0], rest[1]


class _LeadersRequestV1(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 1
    RESPONSE_TYPE = _LeadersResponseV1
    SCHEMA = Schema(("topics", Array(String())))


class _LeadersRequestV4(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 4
    RESPONSE_TYPE = _LeadersResponseV4
    SCHEMA = Schema(("topics", Array(String())), ("may_create", Boolean))


class _LeadersRequestV7(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 7
    RESPONSE_TYPE = _LeadersResponseV7
    SCHEMA = _LeadersRequestV4.SCHEMA


class _LeadersRequestV10(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _LeadersResponseV10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString()), ("tags", TaggedFields)),
        ),
        ("may_create", Boolean),
        ("cluster_operations", Boolean),
        ("topic_operations", Boolean),
        ("tags", TaggedFields),
    )


class _LeadersRequest(
    Request[_LeadersRequestV1 | _LeadersRequestV4 | _LeadersRequestV7 | _LeadersRequestV10]  # type: ignore[misc]
):
    API_KEY = _METADATA

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[Any]) -> Any:
        match request_struct_class.API_VERSION:
            case 1:
                # All topics: a broker may create a topic that is asked for by name.
                return request_struct_class(None)
            case 4 | 7:
                return request_struct_class(self._topics, False)
        topics: list[Any] = [(None, name, {}) for name in self._topics]
        return request_struct_class(topics, False, False, False, {})
