"""The worker: Faust delivers, owners own. Wiring only."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import faust
import structlog
from aiokafka.errors import KafkaError
from prometheus_client import generate_latest
from redis.asyncio import Redis

from projector import tracing
from projector.clients import kafka, redis_servers
from projector.clients import redis_client as connections
from projector.clients.retry import retry_outages, wait_until_ready
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.domain.projection import Policy
from projector.errors import AccessError, NotCopartitionedError, WebPortError
from projector.events.model import KafkaRecord, Topic
from projector.kafka import faust_consumer, tolerant_batches, topics
from projector.kafka.dead_letters import DeadLetterProducer
from projector.kafka.faust_consumer import ShortPollConsumer
from projector.kafka.range_reader import MAX_POLLED, RangeReader
from projector.kafka.record_parser import Damage
from projector.process import LOOPBACK, free_port, port_obstacle, until_signalled
from projector.store.partition_count import agree_on_partitions
from projector.store.partition_store import PartitionStore
from projector.worker.owner import Owner
from projector.worker.owner_group import OwnerGroup
from projector.worker.sweep import OrphanScan

log = structlog.get_logger()

NewOwner = Callable[[int], Owner]

# A frozen broker can hang Faust's shutdown for minutes; checkpoints make a hard exit safe.
HARD_EXIT_S: Final = 15.0
# How soon a worker hears that another has left; far below a third of any session timeout.
HEARTBEAT_S: Final = 1.0


async def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; raises what makes going on impossible."""
    _check_web_port(settings)
    tracing.start("projector-worker")
    await until_signalled(_work(settings))
    log.info("worker stopped")


async def _work(settings: Settings) -> None:
    async with _connected(settings) as (policy, redis, new_owner):
        owners = OwnerGroup(new_owner)
        sweep = OrphanScan(redis, settings.sweep_interval, owners.check_orphan)
        beside = {
            asyncio.create_task(_watch(settings, policy.partitions)),
            asyncio.create_task(sweep.run()),
        }
        try:
            async with _delivering(settings, owners, policy.partitions) as app:
                await _until_broken(app, {owners.failed, *beside})
        finally:
            for task in beside:
                task.cancel()


async def _until_broken(app: Any, failures: set[asyncio.Future[None]]) -> None:
    """Return never, but raise what makes going on impossible."""
    while not app.should_stop:
        done, _ = await asyncio.wait(failures, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        for failure in done:
            failure.result()
    raise RuntimeError("Faust stopped by itself; its log says why")


def _check_web_port(settings: Settings) -> None:
    port, host = settings.worker_web_port, settings.worker_web_host
    if (port or host != LOOPBACK) and (found := port_obstacle(port, host)):
        names = " and ".join(variable_name(name) for name in ("worker_web_host", "worker_web_port"))
        raise WebPortError(f"{found}; {names} choose another, with the port 0 a free one")


@retry_outages
async def _watch(settings: Settings, partitions: int) -> None:
    try:
        await topics.watch_topics(settings, partitions)
    except AccessError as refused:
        # Who was let in at the start goes on: rights may come back, and the facts are in memory.
        raise KafkaError(str(refused)) from None


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[tuple[Policy, Redis, NewOwner]]:
    """Everything that an owner works with, once Redis and Kafka can be reached."""
    server = redis_servers.RedisServers()
    redis = connections.create_redis(settings, server)
    await wait_until_ready(
        "Redis",
        settings.redis_place,
        lambda: redis_servers.refuse_eviction(redis, settings.redis_place),
    )
    found = await wait_until_ready("Kafka", settings.kafka, lambda: topics.check_topics(settings))
    partitions = found[Topic.MEMBERSHIP]
    await wait_until_ready(
        "Redis", settings.redis_place, lambda: _agree(redis, settings, partitions)
    )
    source, dead_letters = RangeReader(settings), DeadLetterProducer(settings)
    policy = Policy(
        partitions,
        settings.minimum_level,
        settings.tombstone_retention_ms,
        settings.sweep_interval,
    )
    identity = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        await wait_until_ready("Kafka", settings.kafka, source.start)
        await wait_until_ready("Kafka", settings.kafka, dead_letters.start)

        def new_owner(partition: int) -> Owner:
            store = PartitionStore(redis, server, partition, identity)
            return Owner(partition, policy, store, source, dead_letters)

        yield policy, redis, new_owner
    finally:
        await dead_letters.stop()
        await source.stop()
        await redis.aclose()


@asynccontextmanager
async def _delivering(
    settings: Settings, owners: OwnerGroup, partitions: int
) -> AsyncIterator[Any]:
    with tempfile.TemporaryDirectory(prefix="projector-") as folder:
        app = create_app(settings, owners, folder)
        try:
            await app.start()
            log.info(
                "worker started", kafka=settings.kafka, redis=settings.redis_place,
                partitions=partitions,
                metrics=f"http://{settings.worker_web_host}:{app.conf.web_port}/metrics",
            )  # fmt: skip
            yield app
        finally:
            asyncio.get_running_loop().call_later(HARD_EXIT_S, _exit_hard)
            # Leaving the group first tells the others; until they have claimed, owners go on.
            await app.stop()
            await owners.hand_over(partitions)
            await owners.stop()


def create_app(settings: Settings, owners: OwnerGroup, folder: str) -> Any:
    """The Faust app: one agent per topic that only enqueues, and the assignment's signal."""
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
        # What Faust listens on; `web_host` is only what it calls itself.
        web_bind=settings.worker_web_host,
        web_host=settings.worker_web_host,
        web_port=settings.worker_web_port or free_port(),
        # Unacknowledged events would block the next rebalance; the checkpoint decides, not acks.
        stream_wait_empty=False,
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=HEARTBEAT_S,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=MAX_POLLED,
        ConsumerScheduler=faust_consumer.skip_applied(_known(settings, owners)),
    )
    app.transport.Consumer = ShortPollConsumer
    for topic in Topic:
        source = app.topic(
            settings.topic(topic), key_serializer="raw", value_serializer="raw", internal=False
        )
        app.agent(source, name=f"enqueue-{topic}")(_enqueue(topic, owners))

    async def assign(_app: Any, assigned: set[Any], **_: Any) -> None:
        partitions = copartitioned(assigned, settings)
        log.info("partitions assigned", partitions=sorted(partitions))
        owners.assign(partitions)

    app.on_partitions_assigned.connect(assign)
    app.page("/metrics")(_metrics)
    return app


def _credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """What `connections.kafka` tells aiokafka, as Faust wants to be told."""
    how = kafka.client_arguments(settings)
    if settings.uses_sasl:
        return faust.SASLCredentials(
            username=how["sasl_plain_username"], password=how["sasl_plain_password"],
            mechanism=how["sasl_mechanism"], ssl_context=how["ssl_context"],
        )  # fmt: skip
    return faust.SSLCredentials(how["ssl_context"]) if how["ssl_context"] else None


async def _metrics(page: Any, _request: Any) -> Any:
    return page.text(generate_latest().decode(), content_type="text/plain")


def copartitioned(assigned: set[Any], settings: Settings) -> frozenset[int]:
    """The partitions assigned, the same of each topic; raises `NotCopartitionedError` if not."""
    by_topic = {
        topic: frozenset(tp.partition for tp in assigned if tp.topic == settings.topic(topic))
        for topic in Topic
    }
    if len(set(by_topic.values())) != 1:
        listed = {str(topic): sorted(partitions) for topic, partitions in by_topic.items()}
        raise NotCopartitionedError(f"assigned {listed}; all topics must have the same partitions")
    return by_topic[Topic.MEMBERSHIP]


def _known(settings: Settings, owners: OwnerGroup) -> Callable[[Any], int]:
    topics_by_name = {settings.topic(topic): topic for topic in Topic}
    return lambda tp: owners.known_offset(topics_by_name[tp.topic], tp.partition)


def _enqueue(topic: Topic, owners: OwnerGroup) -> Callable[[Any], Awaitable[None]]:
    async def enqueue(stream: Any) -> None:
        async for event in stream.noack().events():
            record = _record(topic, event.message)
            if isinstance(record.fault, Damage):
                # The owner misses it, and the range reader raises the alarm for its partition.
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


async def _agree(redis: Redis, settings: Settings, partitions: int) -> None:
    """Hold the number of partitions in Redis against Kafka's; set it where it is missing."""
    stored = await agree_on_partitions(redis, partitions)
    topics.refuse_changed_partitions(settings, partitions, stored)


def _exit_hard() -> None:
    log.error("hard exit", reason="a clean stop took too long; the checkpoint is safe")
    os._exit(1)
