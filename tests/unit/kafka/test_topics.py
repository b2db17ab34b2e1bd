"""Topics as they are created, and what of those that exist endangers answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from pydantic import SecretStr

from projector.config.settings import Settings
from projector.errors import MissingTopicsError, UnusableTopicsError
from projector.events.model import DEAD_LETTERS, SOURCES, Topic
from projector.kafka import topics

SAFE = {"message.timestamp.type": "LogAppendTime", "min.insync.replicas": "2"}


class Admin:
    """An admin client of a cluster with some brokers, and topics with some configuration."""

    def __init__(self, brokers: int, copies: int, **configs: str) -> None:
        self.counts: dict[str, int] = dict.fromkeys(Topic, 1)
        self.denied: tuple[str, ...] = ()
        self.created: list[Any] = []
        self._brokers = brokers
        self._copies = copies
        self._configs = SAFE | {name.replace("_", "."): value for name, value in configs.items()}

    async def describe_cluster(self) -> dict[str, Any]:
        return {"brokers": [None] * self._brokers}

    async def describe_topics(self) -> list[dict[str, Any]]:
        partition = {"replicas": list(range(self._copies))}
        return [
            {"topic": topic, "error_code": 0, "partitions": [partition] * count}
            for topic, count in self.counts.items()
        ]

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        entries = [(name, value, False) for name, value in self._configs.items()]
        return [SimpleNamespace(resources=[(0, "", 2, each.name, entries)]) for each in resources]

    async def create_topics(self, created: list[Any]) -> Any:
        self.created = [topic for topic in created if topic.name not in self.denied]
        self.counts |= {topic.name: topic.num_partitions for topic in self.created}
        errors = [(name, TopicAuthorizationFailedError.errno) for name in self.denied]
        return SimpleNamespace(topic_errors=errors)


def use(monkeypatch: pytest.MonkeyPatch, admin: Admin) -> None:
    @asynccontextmanager
    async def opened(_settings: Settings) -> AsyncIterator[Admin]:
        yield admin

    monkeypatch.setattr(topics, "open_admin", opened)


@pytest.mark.parametrize(("brokers", "minimum"), [(1, None), (2, None), (3, "2"), (9, "2")])
async def test_of_three_copies_two_must_have_a_write(brokers: int, minimum: str | None) -> None:
    admin: Any = Admin(brokers, 0)
    await topics._create(admin, Settings(), [Topic.MEMBERSHIP], 4)
    assert admin.created[0].topic_configs.get("min.insync.replicas") == minimum


@pytest.mark.parametrize(
    ("copies", "configs", "found"),
    [
        (3, {}, 0),
        (3, {"min_insync_replicas": "1"}, 3),
        (2, {"min_insync_replicas": "1"}, 0),
        (1, {"min_insync_replicas": "1"}, 0),
        (1, {"min_insync_replicas": ""}, 0),
        (3, {"message_timestamp_type": "CreateTime"}, 3),
        (3, {"message_timestamp_type": "CreateTime", "min_insync_replicas": "1"}, 6),
    ],
)
async def test_each_risk_is_named_with_the_topic_and_the_cure(
    monkeypatch: pytest.MonkeyPatch, copies: int, configs: dict[str, str], found: int
) -> None:
    use(monkeypatch, Admin(3, copies, **configs))
    risks = await topics.find_risks(Settings())
    assert len(risks) == found
    for name in configs:
        if found:
            assert any(f"Set {name.replace('_', '.')}=" in risk for risk in risks)
    assert all(risk.startswith("the topic ") for risk in risks)


async def test_a_cluster_that_does_not_show_the_minimum_is_a_risk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, Admin(3, 2, min_insync_replicas=""))
    risks = await topics.find_risks(Settings())
    assert len(risks) == 3
    assert all("all of its 2 copies must confirm their leader" in risk for risk in risks)


async def test_the_topic_of_heartbeats_is_created_with_one_partition_for_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = Admin(3, 3)
    use(monkeypatch, admin)
    found = await topics.create_topics(Settings())
    assert found[SOURCES] == 1
    (created,) = (topic for topic in admin.created if topic.name == SOURCES)
    assert created.num_partitions == 1
    assert created.topic_configs == {
        "cleanup.policy": "delete",
        "retention.ms": str(24 * 3600 * 1000),
        "max.message.bytes": str(2 * 1024 * 1024),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2",
    }


async def test_a_deployment_without_sources_needs_no_topic_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = Admin(1, 1)
    admin.counts |= {DEAD_LETTERS: 1}
    use(monkeypatch, admin)
    assert SOURCES not in await topics.check_topics(Settings())
    with pytest.raises(MissingTopicsError, match=": sources; create them"):
        await topics.check_topics(Settings(sources="gitlab"))
    user = Settings(
        sources="gitlab",
        kafka_username="a",
        kafka_password=SecretStr("b"),
        kafka_security_protocol="SASL_PLAINTEXT",
    )
    with pytest.raises(MissingTopicsError) as hidden:
        await topics.check_topics(user)
    # The status shows no more than the reason.
    assert "or hidden from this user" in hidden.value.reason


async def test_heartbeats_must_have_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Admin(1, 1)
    admin.counts |= {DEAD_LETTERS: 1, SOURCES: 2}
    use(monkeypatch, admin)
    with pytest.raises(UnusableTopicsError, match="must have one partition, but has 2"):
        await topics.check_topics(Settings(sources="gitlab"))
    # Without sources a topic of this name may be for something else.
    assert (await topics.check_topics(Settings()))[SOURCES] == 2


async def test_the_topic_of_heartbeats_is_at_risk_by_its_copies_and_not_by_its_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = Admin(3, 3, message_timestamp_type="CreateTime", min_insync_replicas="1")
    admin.counts |= {SOURCES: 1}
    use(monkeypatch, admin)
    found = [
        risk for risk in await topics.find_risks(Settings(sources="gitlab")) if SOURCES in risk
    ]
    assert len(found) == 1
    assert "Set min.insync.replicas=2" in found[0]
    assert not any(SOURCES in risk for risk in await topics.find_risks(Settings()))


async def test_more_copies_than_brokers_are_refused_with_the_setting() -> None:
    admin: Any = Admin(2, 0)
    with pytest.raises(UnusableTopicsError, match=r"FACTOR is 3, but .* is 2. Set at most"):
        await topics._create(admin, Settings(replication_factor=3), [Topic.MEMBERSHIP], 4)


async def test_an_administrator_of_before_needs_no_right_to_create_what_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = Admin(1, 1)
    admin.denied = (SOURCES,)
    use(monkeypatch, admin)
    assert SOURCES not in await topics.create_topics(Settings())
    with pytest.raises(UnusableTopicsError, match="refused to create the topic sources"):
        await topics.create_topics(Settings(sources="gitlab"))
