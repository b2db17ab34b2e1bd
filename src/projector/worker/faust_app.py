"""The Faust app: one agent per topic that only enqueues, and the assignment of partitions."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import faust
import structlog
from aiokafka import AIOKafkaConsumer
from prometheus_client import generate_latest

from projector.clients import kafka
from projector.config.settings import Settings
from projector.errors import NotCopartitionedError
from projector.events.model import KafkaRecord, Topic
from projector.kafka import faust_consumer, tolerant_batches
from projector.kafka.range_reader import MAX_POLLED
from projector.kafka.record_parser import Damage
from projector.ports import free_port
from projector.worker.liveness import read_liveness
from projector.worker.owner_group import OwnerGroup

log = structlog.get_logger()

# How soon a worker learns that another has left; far below a third of any session timeout.
HEARTBEAT_S: Final = 1.0


class BytesSchema(faust.Schema):  # type: ignore[misc]
    """Keys and values as Kafka has them; Faust's codec `raw` takes 4 us to do the same."""

    def loads_key(self, _app: Any, message: Any, **_: Any) -> bytes | None:
        """Return the key."""
        return message.key  # type: ignore[no-any-return]

    def loads_value(self, _app: Any, message: Any, **_: Any) -> bytes | None:
        """Return the value."""
        return message.value  # type: ignore[no-any-return]


def create_app(
    settings: Settings,
    owners: OwnerGroup,
    folder: str,
    follow: Callable[[AIOKafkaConsumer], None] = lambda _: None,
) -> Any:
    """Create the Faust app; it keeps its files in `folder`, and `follow` gets its consumer."""
    app = faust.App(
        id=settings.topic("projector"),
        broker=[f"kafka://{broker}" for broker in settings.brokers],
        broker_credentials=_credentials(settings),
        store="memory://",
        datadir=folder,
        # 0 would assign partitions round robin: the three topics would not be co-partitioned.
        table_standby_replicas=1,
        topic_disable_leader=True,
        web_tables_enabled=False,
        # Faust listens on `web_bind`; `web_host` is only the name that it gives itself.
        web_bind=settings.worker_web_host,
        web_host=settings.worker_web_host,
        web_port=settings.worker_web_port or free_port(),
        # Unacknowledged events would block the next rebalance; the checkpoint decides, not acks.
        stream_wait_empty=False,
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=HEARTBEAT_S,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=MAX_POLLED,
        ConsumerScheduler=faust_consumer.skip_applied(_known_offset(settings, owners)),
    )
    app.transport.Consumer = faust_consumer.followed_consumer(follow)
    for topic in Topic:
        source = app.topic(settings.topic(topic), schema=BytesSchema(), internal=False)
        app.agent(source, name=f"enqueue-{topic}")(_enqueue(topic, owners))

    async def assign(_app: Any, assigned: set[Any], **_: Any) -> None:
        partitions = copartitioned(assigned, settings)
        log.info("partitions assigned", partitions=sorted(partitions))
        owners.assign(partitions)

    app.on_partitions_assigned.connect(assign)
    app.page("/metrics")(_metrics)
    app.page("/health/live")(_live)
    return app


def _credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Translate the credentials of every aiokafka client to Faust's."""
    arguments = kafka.client_arguments(settings)
    if settings.uses_sasl:
        return faust.SASLCredentials(
            username=arguments["sasl_plain_username"], password=arguments["sasl_plain_password"],
            mechanism=arguments["sasl_mechanism"], ssl_context=arguments["ssl_context"],
        )  # fmt: skip
    return faust.SSLCredentials(arguments["ssl_context"]) if arguments["ssl_context"] else None


async def _metrics(page: Any, _request: Any) -> Any:
    return page.text(generate_latest().decode(), content_type="text/plain")


async def _live(page: Any, _request: Any) -> Any:
    status, body = await read_liveness(page.app.consumer._thread)
    return page.json(body, status=status, headers={"Cache-Control": "no-store"})


def copartitioned(assigned: set[Any], settings: Settings) -> frozenset[int]:
    """Return the partitions assigned; raise `NotCopartitionedError` if the topics' differ."""
    by_topic = {
        topic: frozenset(tp.partition for tp in assigned if tp.topic == settings.topic(topic))
        for topic in Topic
    }
    if len(set(by_topic.values())) != 1:
        listed = {str(topic): sorted(partitions) for topic, partitions in by_topic.items()}
        raise NotCopartitionedError(f"assigned {listed}; all topics must have the same partitions")
    return by_topic[Topic.MEMBERSHIP]


def _known_offset(settings: Settings, owners: OwnerGroup) -> Callable[[Any], int]:
    topics_by_name = {settings.topic(topic): topic for topic in Topic}
    return lambda tp: owners.known_offset(topics_by_name[tp.topic], tp.partition)


def _enqueue(topic: Topic, owners: OwnerGroup) -> Callable[[Any], Awaitable[None]]:
    async def enqueue(stream: Any) -> None:
        # A stream gives way after each event, and so its queue would fill up.
        async for event in stream.channel:
            record = _record(topic, event.message)
            if isinstance(record.fault, Damage):
                # Its owner reads the gap from Kafka, and the range reader raises the alarm.
                event.ack()
            else:
                owners.enqueue(record, event.ack)

    return enqueue


def _record(topic: Topic, message: Any) -> KafkaRecord:
    headers, fault = tolerant_batches.split_fault(tuple(message.headers or ()))
    milliseconds = round((message.timestamp or 0) * 1000)
    return KafkaRecord(
        topic, message.partition, message.offset, milliseconds,
        message.key, message.value, headers, fault,
    )  # fmt: skip
