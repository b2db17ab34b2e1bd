"""The topics in Kafka: created, or checked before anything relies on them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from projector.clients import kafka, kafka_access
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import ChangedPartitionsError, MissingTopicsError, UnusableTopicsError
from projector.events.model import DEAD_LETTERS, Topic

_DAYS_MS: Final = 24 * 3600 * 1000
_MIB: Final = 1024 * 1024
MAX_DEFAULT_COPIES: Final = 3
WATCH_INTERVAL_S: Final = 1.0

# The broker's clock and not a producer's: with a wrong time Kafka would delete job-lifecycle early,
# and tokens would be dead from the start.
_EVENTS: Final = {
    "max.message.bytes": str(2 * _MIB),
    "message.timestamp.type": "LogAppendTime",
}
CLEANUP: Final = "delete"
CONFIGS: Final[dict[str, dict[str, str]]] = {
    Topic.MEMBERSHIP: {"retention.ms": "-1", **_EVENTS},
    Topic.AGENT_CONFIG: {"retention.ms": "-1", **_EVENTS},
    Topic.JOB_LIFECYCLE: {"retention.ms": str(60 * _DAYS_MS), **_EVENTS},
    DEAD_LETTERS: {"retention.ms": "-1", "max.message.bytes": str(4 * _MIB)},
}


async def create_topics(settings: Settings) -> dict[str, int]:
    """Create what is missing, check everything; the partitions of each topic.

    Topics that exist decide the number of partitions of those created beside them.
    Raises `UnusableTopicsError`, `AccessError` and `KafkaError`.
    """
    async with _admin(settings) as admin:
        existing = await _partitions(admin, settings)
        _check_counts(settings, existing)
        count = next((existing[topic] for topic in Topic if topic in existing), settings.partitions)
        missing = [name for name in CONFIGS if name not in existing]
        await _create(admin, settings, missing, count)
    return await check_topics(settings)


async def check_topics(settings: Settings) -> dict[str, int]:
    """The partitions of each topic.

    Raises `MissingTopicsError`, `UnusableTopicsError`, `AccessError` and `KafkaError`.
    """
    async with _admin(settings) as admin:
        existing = await _partitions(admin, settings)
        missing = [settings.topic(name) for name in CONFIGS if name not in existing]
        if missing:
            raise MissingTopicsError(
                f"missing in Kafka at {settings.kafka}: {', '.join(missing)}; "
                "create them with `projector topics`" + _or_hidden(settings)
            )
        _check_counts(settings, existing)
        await _check_cleanup(admin, settings)
    return existing


async def watch_topics(settings: Settings, expected: int) -> NoReturn:
    """Ask for the number of partitions every second; raises once it is another.

    Producers then send events where nobody looks for them, revocations too.
    Raises `ChangedPartitionsError`, `AccessError`, and `KafkaError` when Kafka does not answer.
    """
    async with _admin(settings) as admin:
        while True:
            existing = await _partitions(admin, settings)
            for topic in Topic:
                refuse_changed_partitions(settings, existing.get(topic, expected), expected)
            await asyncio.sleep(WATCH_INTERVAL_S)


def refuse_changed_partitions(settings: Settings, found: int, expected: int) -> None:
    """Raise `ChangedPartitionsError` if Kafka has other than the partitions of the views."""
    if found != expected:
        raise ChangedPartitionsError(
            f"the topics in Kafka at {settings.kafka} have {found} partitions, but the views in "
            f"Redis at {settings.redis_place} were written for {expected}. Create new topics under "
            f"another {variable_name('topic_prefix')}, feed them anew, and use an empty database"
        )


def _or_hidden(settings: Settings) -> str:
    """Kafka hides topics from those who may not describe them."""
    known = settings.uses_sasl or settings.kafka_certificate_file
    return ", or let this user describe them (docs/security.md)" if known else ""


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**kafka.client_arguments(settings), request_timeout_ms=10_000)
    try:
        await admin.start()
        yield admin
    except KafkaError:
        await kafka_access.raise_if_refused(settings)
        raise
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient, settings: Settings) -> dict[str, int]:
    names = {settings.topic(name): name for name in CONFIGS}
    # All topics, for asking for one by name would create it where the broker is so configured.
    described = await admin.describe_topics()
    return {
        names[topic["topic"]]: len(topic["partitions"])
        for topic in described
        if topic["topic"] in names and topic["error_code"] == 0
    }


async def _create(
    admin: AIOKafkaAdminClient, settings: Settings, names: list[str], count: int
) -> None:
    if not names:
        return
    brokers = (await admin.describe_cluster())["brokers"]
    copies = settings.replication_factor or min(MAX_DEFAULT_COPIES, len(brokers))
    topics = [
        NewTopic(
            settings.topic(name),
            num_partitions=1 if name == DEAD_LETTERS else count,
            replication_factor=copies,
            topic_configs={"cleanup.policy": CLEANUP, **CONFIGS[name]},
        )
        for name in names
    ]
    response = await admin.create_topics(topics)
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise UnusableTopicsError(f"Kafka refused to create the topic {name}: {error.__name__}")


def _check_counts(settings: Settings, existing: Mapping[str, int]) -> None:
    counts = {topic: existing[topic] for topic in Topic if topic in existing}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{settings.topic(name)} {count}" for name, count in counts.items())
        raise UnusableTopicsError(
            f"the topics must have the same number of partitions, but have: {listed}. Events of "
            "one root namespace would not meet. Create new topics under another "
            f"{variable_name('topic_prefix')} and feed them anew"
        )


async def refuse_producers_time(settings: Settings) -> None:
    """Raise `UnusableTopicsError` where producers say when their events were sent.

    A broker that tells no such configuration (the embedded one) is believed.
    """
    async with _admin(settings) as admin:
        async for name, entries in _configurations(admin, settings):
            if _value(entries, "message.timestamp.type") not in ("", "LogAppendTime"):
                raise UnusableTopicsError(
                    f"the topic {name} has its producers' time: what is newer cannot be told. "
                    "Set message.timestamp.type=LogAppendTime"
                )


async def _check_cleanup(admin: AIOKafkaAdminClient, settings: Settings) -> None:
    async for name, entries in _configurations(admin, settings):
        if "compact" in _value(entries, "cleanup.policy"):
            raise UnusableTopicsError(
                f"the topic {name} has cleanup.policy=compact: the key is the root namespace, "
                "so compaction would erase facts. Set cleanup.policy=delete"
            )


async def _configurations(
    admin: AIOKafkaAdminClient, settings: Settings
) -> AsyncIterator[tuple[str, list[Any]]]:
    """The configuration of each of the three topics."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, settings.topic(name)) for name in Topic]
    for response in await admin.describe_configs(resources):
        for code, _message, _type, name, entries in response.resources:
            if code:
                raise UnusableTopicsError(
                    f"Kafka does not tell the configuration of {name}: {for_code(code).__name__}. "
                    "Grant DescribeConfigs: on a compacted topic the projection would be wrong"
                )
            yield name, entries


def _value(entries: list[Any], name: str) -> str:
    return next((str(entry[1]) for entry in entries if entry[0] == name), "")
