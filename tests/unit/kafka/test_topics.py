"""Topics as they are created, and what of those that exist endangers answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from projector.config.settings import Settings
from projector.events.model import Topic
from projector.kafka import topics

SAFE = {"message.timestamp.type": "LogAppendTime", "min.insync.replicas": "2"}


class Admin:
    """An admin client of a cluster with some brokers, and topics with some configuration."""

    def __init__(self, brokers: int, copies: int, **configs: str) -> None:
        self.created: list[Any] = []
        self._brokers = brokers
        self._copies = copies
        self._configs = SAFE | {name.replace("_", "."): value for name, value in configs.items()}

    async def describe_cluster(self) -> dict[str, Any]:
        return {"brokers": [None] * self._brokers}

    async def describe_topics(self) -> list[dict[str, Any]]:
        partition = {"replicas": list(range(self._copies))}
        return [{"topic": topic, "error_code": 0, "partitions": [partition]} for topic in Topic]

    async def describe_configs(self, _resources: Any) -> list[Any]:
        entries = [(name, value, False) for name, value in self._configs.items()]
        return [SimpleNamespace(resources=[(0, "", 2, topic, entries)]) for topic in Topic]

    async def create_topics(self, created: list[Any]) -> Any:
        self.created = created
        return SimpleNamespace(topic_errors=[])


def use(monkeypatch: pytest.MonkeyPatch, admin: Admin) -> None:
    @asynccontextmanager
    async def opened(_settings: Settings) -> AsyncIterator[Admin]:
        yield admin

    monkeypatch.setattr(topics, "_admin", opened)


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
