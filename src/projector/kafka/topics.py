"""The topics in Kafka: their creation, and the checks before their use."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from typing import Any, Final, NoReturn

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import ChangedPartitionsError, MissingTopicsError, UnusableTopicsError
from projector.events.model import SOURCES, Topic
from projector.kafka.admin_client import open_admin
from projector.kafka.broker_protocol import MINIMUM
from projector.kafka.topic_configs import CLEANUP, CONFIGS, ONE_PARTITION

MAX_DEFAULT_COPIES: Final = 3
# With so many copies a write can have two and one broker may be away, for writes and for witnesses.
ENOUGH_COPIES: Final = 3
MINIMUM_IN_SYNC: Final = 2
WATCH_INTERVAL_S: Final = 1.0
# Kafka acknowledges a new topic before every broker knows it; a busy one takes a second or two.
KNOWN_S: Final = 10.0


async def create_topics(settings: Settings) -> dict[str, int]:
    """Create missing topics and check all; return the number of partitions of each topic.

    New topics get the number of partitions of those that exist.
    Raises `UnusableTopicsError`, `AccessError` and `KafkaError`.
    """
    async with open_admin(settings) as admin:
        existing = await _partitions(admin, settings)
        _check_counts(settings, existing)
        count = next((existing[topic] for topic in Topic if topic in existing), settings.partitions)
        missing = [name for name in CONFIGS if name not in existing]
        created = await _create(admin, settings, missing, count)
    return await _check_created(settings, {*_used(settings), *created})


@retry(
    retry=retry_if_exception_type(MissingTopicsError), wait=wait_fixed(0.1),
    stop=stop_after_delay(KNOWN_S), reraise=True,
)  # fmt: skip
async def _check_created(settings: Settings, names: Collection[str]) -> dict[str, int]:
    """Check the topics once the brokers know those just created."""
    return await _check(settings, names)


async def check_topics(settings: Settings) -> dict[str, int]:
    """Check the topics that are used; return the number of partitions of each.

    Without sources the topic `sources` is not used: deployments from before it have none.
    Raises `MissingTopicsError`, `UnusableTopicsError`, `AccessError` and `KafkaError`.
    """
    return await _check(settings, _used(settings))


def _used(settings: Settings) -> list[str]:
    return [name for name in CONFIGS if name != SOURCES or settings.source_names]


async def _check(settings: Settings, names: Collection[str]) -> dict[str, int]:
    async with open_admin(settings) as admin:
        existing = await _partitions(admin, settings)
        missing = [settings.topic(name) for name in names if name not in existing]
        if missing:
            raise MissingTopicsError(
                f"missing in Kafka at {settings.kafka}{_or_hidden(settings)}: {', '.join(missing)}",
                "create them with `projector topics`",
            )
        _check_counts(settings, existing)
        if settings.source_names:
            _check_sources(settings, existing[SOURCES])
        await _check_cleanup(admin, settings)
    return existing


async def watch_topics(settings: Settings, expected: int) -> NoReturn:
    """Check the number of partitions every second; raise once it has changed.

    Producers would then send events, revocations too, to partitions without an owner.
    Raises `ChangedPartitionsError`, `AccessError`, and `KafkaError` if Kafka does not answer.
    """
    async with open_admin(settings) as admin:
        while True:
            existing = await _partitions(admin, settings)
            for topic in Topic:
                refuse_changed_partitions(settings, existing.get(topic, expected), expected)
            await asyncio.sleep(WATCH_INTERVAL_S)


def refuse_changed_partitions(settings: Settings, found: int, expected: int) -> None:
    """Raise `ChangedPartitionsError` unless the topics have as many partitions as expected."""
    if found != expected:
        raise ChangedPartitionsError(
            f"the topics in Kafka at {settings.kafka} have {found} partitions, but the views in "
            f"Redis at {settings.redis_place} were written for {expected}. Create new topics under "
            f"another {variable_name('topic_prefix')}, feed them again, and use an empty database"
        )


def _or_hidden(settings: Settings) -> str:
    """Complete the sentence: Kafka hides topics from clients without the right to describe them."""
    known = settings.uses_sasl or settings.kafka_certificate_file
    return " or hidden from this user, who needs Describe (docs/security.md)" if known else ""


async def _partitions(admin: AIOKafkaAdminClient, settings: Settings) -> dict[str, int]:
    names = {settings.topic(name): name for name in CONFIGS}
    # All topics: a request for one by name may create it, if the broker is configured so.
    described = await admin.describe_topics()
    return {
        names[topic["topic"]]: len(topic["partitions"])
        for topic in described
        if topic["topic"] in names and topic["error_code"] == 0
    }


async def _create(
    admin: AIOKafkaAdminClient, settings: Settings, names: list[str], count: int
) -> list[str]:
    """Create the topics; return their names.

    An administrator of before may have no right to create `sources`, and needs none without any.
    """
    if not names:
        return []
    brokers = (await admin.describe_cluster())["brokers"]
    copies = _copies_of_new(settings, len(brokers))
    in_sync = {MINIMUM: str(MINIMUM_IN_SYNC)} if copies >= ENOUGH_COPIES else {}
    topics = [
        NewTopic(
            settings.topic(name),
            num_partitions=1 if name in ONE_PARTITION else count,
            replication_factor=copies,
            topic_configs={"cleanup.policy": CLEANUP, **CONFIGS[name], **in_sync},
        )
        for name in names
    ]
    response = await admin.create_topics(topics)
    refused = set()
    needed = {settings.topic(name) for name in _used(settings)}
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        if error is TopicAuthorizationFailedError and name not in needed:
            refused.add(name)
        elif code and error is not TopicAlreadyExistsError:
            raise UnusableTopicsError(f"Kafka refused to create the topic {name}: {error.__name__}")
    return [name for name in names if settings.topic(name) not in refused]


def _copies_of_new(settings: Settings, brokers: int) -> int:
    """Return the number of copies of a new topic."""
    if settings.replication_factor > brokers:
        raise UnusableTopicsError(
            f"{variable_name('replication_factor')} is {settings.replication_factor}, but the "
            f"number of brokers of Kafka at {settings.kafka} is {brokers}. Set at most that number"
        )
    return settings.replication_factor or min(MAX_DEFAULT_COPIES, brokers)


def _check_counts(settings: Settings, existing: Mapping[str, int]) -> None:
    counts = {topic: existing[topic] for topic in Topic if topic in existing}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{settings.topic(name)} {count}" for name, count in counts.items())
        raise UnusableTopicsError(
            f"the topics must have the same number of partitions, but have: {listed}. Events of "
            "one root namespace would not meet. Create new topics under another "
            f"{variable_name('topic_prefix')} and feed them again"
        )


def _check_sources(settings: Settings, count: int) -> None:
    if count != 1:
        raise UnusableTopicsError(
            f"the topic {settings.topic(SOURCES)} must have one partition, but has {count}: "
            "heartbeats have one order. Delete it and create it again with `projector topics`"
        )


async def find_risks(settings: Settings) -> list[str]:
    """Return a sentence for each configuration that endangers answers, with what to do.

    Raises `UnusableTopicsError`, `AccessError` and `KafkaError`.
    """
    async with open_admin(settings) as admin:
        described = {topic["topic"]: topic for topic in await admin.describe_topics()}
        used = [*Topic, *((SOURCES,) if settings.source_names else ())]
        return [
            risk
            async for name, entries in _configurations(admin, settings, used)
            for risk in _risks(name, entries, _copies(described.get(name)))
            # The times of heartbeats are not used.
            if name != settings.topic(SOURCES) or MINIMUM in risk
        ]


def _copies(described: Mapping[str, Any] | None) -> int:
    partitions = described["partitions"] if described else ()
    return max((len(partition["replicas"]) for partition in partitions), default=0)


def _risks(name: str, entries: list[Any], copies: int) -> Iterator[str]:
    if copies >= ENOUGH_COPIES and _value(entries, MINIMUM) == "1":
        yield (
            f"the topic {name} has {copies} copies and {MINIMUM}=1, so every copy must confirm its "
            "leader: while one broker is away, lookups get 503, and Kafka may lose what it "
            f"acknowledged. Set {MINIMUM}={MINIMUM_IN_SYNC}"
        )
    if copies > 1 and not _value(entries, MINIMUM):
        yield (
            f"Kafka does not show {MINIMUM} of the topic {name}, so all of its {copies} copies "
            "must confirm their leader: while one broker is away, lookups get 503"
        )
    if _has_producers_time(entries):
        yield (
            f"the topic {name} has its producers' time: with a wrong clock, tokens are dead from "
            "the start, and Kafka deletes events early. Set message.timestamp.type=LogAppendTime"
        )


def _has_producers_time(entries: list[Any]) -> bool:
    return _value(entries, "message.timestamp.type") not in ("", "LogAppendTime")


async def refuse_producers_time(settings: Settings) -> None:
    """Raise `UnusableTopicsError` if a topic's timestamps are its producers'.

    The embedded broker has no such configuration and passes.
    """
    async with open_admin(settings) as admin:
        async for name, entries in _configurations(admin, settings):
            if _has_producers_time(entries):
                raise UnusableTopicsError(
                    f"the topic {name} has its producers' time, which does not show what is newer. "
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
    admin: AIOKafkaAdminClient, settings: Settings, names: Collection[str] = tuple(Topic)
) -> AsyncIterator[tuple[str, list[Any]]]:
    """Yield the configuration of each of these topics."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, settings.topic(name)) for name in names]
    for response in await admin.describe_configs(resources):
        for code, _message, _type, name, entries in response.resources:
            if code:
                raise UnusableTopicsError(
                    f"Kafka does not show the configuration of {name}: {for_code(code).__name__}. "
                    "Grant DescribeConfigs: on a compacted topic the projection would be wrong"
                )
            yield name, entries


def _value(entries: list[Any], name: str) -> str:
    return next((str(entry[1]) for entry in entries if entry[0] == name), "")
