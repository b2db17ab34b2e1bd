"""Questions to one broker: leaders of partitions with their epochs, and offsets at that epoch.

aiokafka's own requests ask for no leader epoch and no topic id. The versions here do, as far as the
broker has them.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from io import BytesIO
from itertools import groupby
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    NotLeaderForPartitionError,
    for_code,
)
from aiokafka.protocol import admin, metadata, offset
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

NO_BROKER: Final = -1
# Of a broker that reports no epoch.
NO_EPOCH: Final = -1
# The two ends of a log, as ListOffsets has them.
LATEST: Final = -1
EARLIEST: Final = -2
MINIMUM: Final = "min.insync.replicas"
_METADATA: Final = 3
_LIST_OFFSETS: Final = 2
_TOPIC_RESOURCE: Final = 2
# The broker does not lead at this epoch: it has gone on to a higher one, or knows only a lower one.
_OTHER_EPOCH: Final = (74, 75)


class PartitionLeader(NamedTuple):
    """One partition's leader, its epoch and the replicas, as one broker names them.

    `leader` is `NO_BROKER` if the partition has none. A broker may report no epoch (`NO_EPOCH`) and
    no topic id.
    """

    leader: int
    epoch: int
    replicas: frozenset[int]
    topic_id: UUID | None = None


Leaders = Mapping[TopicPartition, PartitionLeader]


def id_of(leader: PartitionLeader | None) -> str:
    """Return the topic's id, '' if the broker reports none."""
    return str(leader.topic_id) if leader and leader.topic_id else ""


class Address(NamedTuple):
    """The place where a broker listens for clients."""

    host: str
    port: int


class BrokerAnswer(NamedTuple):
    """The brokers and the leaders that one broker knows."""

    addresses: Mapping[int, Address]
    leaders: Leaders


async def ask_leaders(connection: AIOKafkaConnection, topics: Iterable[str]) -> BrokerAnswer:
    """Ask one broker for the leaders of these topics' partitions; creates no topic.

    Topics that the broker does not know, or does not show to this user, are left out.
    Raises `KafkaError` and `TimeoutError`.
    """
    answer: BrokerAnswer = await _send(connection, _LeadersRequest(list(topics)))
    return answer


async def ask_offsets(
    connection: AIOKafkaConnection, leaders: Leaders, end: int, *, committed: bool = False
) -> dict[TopicPartition, int | KafkaError]:
    """Ask a leader for one end of its partitions, `LATEST` or `EARLIEST`.

    With `committed`, the latest end is at the first open transaction; brokers before Kafka 2.1
    return the end of the log all the same. A leader refuses if it leads at another epoch than this.
    The error of one partition is returned in place of its offset.
    Raises `KafkaError` and `TimeoutError`.
    """
    response = await _send(connection, _OffsetsRequest(leaders, end, committed))
    return {
        TopicPartition(topic, partition): _refusal(topic, partition, code) if code else found
        for topic, partitions in response.topics
        for partition, code, _timestamp, found, *_ in partitions
    }


def _refusal(topic: str, partition: int, code: int) -> KafkaError:
    if code in _OTHER_EPOCH:
        return NotLeaderForPartitionError(f"{topic} {partition}: another leader epoch")
    error: KafkaError = for_code(code)(f"{topic} {partition}")
    return error


async def ask_minimum_in_sync(
    connection: AIOKafkaConnection, topics: Iterable[str]
) -> dict[str, int]:
    """Ask one broker for the topics' `min.insync.replicas`.

    Topics whose configuration the broker does not show are left out.
    Raises `KafkaError` and `TimeoutError`.
    """
    # All of the configuration: the embedded broker hangs up on a question for one name.
    resources = [(_TOPIC_RESOURCE, topic, None) for topic in topics]
    response = await _send(connection, admin.DescribeConfigsRequest(resources))
    return {
        topic: int(value)
        for code, _message, _type, topic, entries in response.resources
        for name, value, *_ in entries or ()
        if not code and name == MINIMUM and (value or "").isdecimal()
    }


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


class _LeadersResponse(Response):  # type: ignore[misc]
    """An answer that is decoded once for all brokers and questions to which it is the same."""

    @classmethod
    def decode(cls, data: BytesIO) -> BrokerAnswer:
        """Decode the brokers; take the rest from the cache, unless a leader has changed."""
        at = cls.SCHEMA.names.index("topics")
        head = dict(
            zip(cls.SCHEMA.names, (f.decode(data) for f in cls.SCHEMA.fields[:at]), strict=False)
        )
        addresses = {node: Address(host, port) for node, host, port, *_ in head["brokers"]}
        return BrokerAnswer(addresses, _decode_leaders(cls.SCHEMA.fields[at], data.read()))


@lru_cache(maxsize=16)
def _decode_leaders(topics: Any, raw: bytes) -> Leaders:
    """Decode the topics of an answer; of 64 partitions each that takes 2 ms."""
    leaders = {}
    for topic in _named(topics, topics.decode(BytesIO(raw))):
        partitions = topics.array_of.fields[topics.array_of.names.index("partitions")]
        for each in _named(partitions, () if topic["error_code"] else topic["partitions"]):
            leaders[TopicPartition(topic["topic"], each["partition"])] = PartitionLeader(
                each["leader"], each.get("leader_epoch", NO_EPOCH),
                frozenset(each["replicas"]), topic.get("topic_id"),
            )  # fmt: skip
    return leaders


def _named(array: Any, items: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return (dict(zip(array.array_of.names, item, strict=True)) for item in items)


class _LeadersResponseV1(_LeadersResponse):
    API_KEY, API_VERSION = _METADATA, 1
    SCHEMA = metadata.MetadataResponse_v1.SCHEMA


class _LeadersResponseV4(_LeadersResponse):
    API_KEY, API_VERSION = _METADATA, 4
    SCHEMA = metadata.MetadataResponse_v4.SCHEMA


class _LeadersResponseV7(_LeadersResponse):
    API_KEY, API_VERSION = _METADATA, 7
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
                ("topic", String()),
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


class _LeadersResponseV10(_LeadersResponse):
    API_KEY, API_VERSION = _METADATA, 10
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
                ("topic", CompactString()),
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


class _LeadersRequestV1(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION = _METADATA, 1
    RESPONSE_TYPE = _LeadersResponseV1
    SCHEMA = metadata.MetadataRequest_v1.SCHEMA


class _LeadersRequestV4(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION = _METADATA, 4
    RESPONSE_TYPE = _LeadersResponseV4
    SCHEMA = metadata.MetadataRequest_v4.SCHEMA


class _LeadersRequestV7(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION = _METADATA, 7
    RESPONSE_TYPE = _LeadersResponseV7
    SCHEMA = metadata.MetadataRequest_v4.SCHEMA


class _LeadersRequestV10(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION = _METADATA, 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _LeadersResponseV10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString()), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
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


# ListOffsets: 4 has the leader epoch. aiokafka's class of that version has a wrong width.


class _OffsetsRequestV4(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION = _LIST_OFFSETS, 4
    RESPONSE_TYPE = offset.OffsetResponse_v4
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("isolation_level", Int8),
        (
            "topics",
            Array(
                ("topic", String()),
                (
                    "partitions",
                    Array(
                        ("partition", Int32), ("current_leader_epoch", Int32), ("timestamp", Int64)
                    ),
                ),
            ),
        ),
    )


class _OffsetsRequest(
    Request[offset.OffsetRequest_v1 | _OffsetsRequestV4]  # type: ignore[misc]
):
    API_KEY = _LIST_OFFSETS

    def __init__(self, leaders: Leaders, end: int, committed: bool) -> None:
        self._leaders = sorted(leaders.items())
        self._end = end
        self._isolation_level = int(committed)

    def build(self, request_struct_class: type[Any]) -> Any:
        has_epoch = request_struct_class.API_VERSION >= 4
        topics = [
            (topic, [
                (tp.partition, leader.epoch, self._end) if has_epoch else (tp.partition, self._end)
                for tp, leader in found
            ])
            for topic, found in groupby(self._leaders, key=lambda each: each[0].topic)
        ]  # fmt: skip
        level = (self._isolation_level,) if has_epoch else ()
        return request_struct_class(-1, *level, topics)
