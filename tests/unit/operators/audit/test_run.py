"""An audit counts what it compares and what it leaves out, and feeds only what is safe."""

import io
import json
from typing import Any

import pytest

from projector.clients import redis_batch
from projector.config.settings import Settings
from projector.errors import ChangedPartitionsError, DifferentRulesError, OperatorError
from projector.events.model import DEAD_LETTERS, Topic
from projector.kafka import topics
from projector.operators.audit import comparison
from projector.operators.audit.comparison import AuditScope, FactMismatch
from projector.operators.audit.run import (
    AuditRequest,
    AuditRun,
    FindingRow,
    NotComparedRow,
    refuse_unsafe_repair,
)
from tests import builders
from tests.unit.operators import worlds
from tests.unit.operators.worlds import COMPANY, HOME, OTHER, PARTITIONS, STARTED, World

SETTINGS = Settings()


@pytest.fixture
async def world() -> World:
    return await worlds.filled(None, builders.group(40, root="40"))


def request(*exported: dict[str, Any], taken: int | None = None, kinds: str = "") -> AuditRequest:
    source = io.BytesIO(b"\n".join(json.dumps(message).encode() for message in exported))
    export, bad = comparison.read_export(source, PARTITIONS)
    assert bad == []
    scope = AuditScope(frozenset(kinds.split() or export.kinds), frozenset(export.roots))
    return AuditRequest(export, scope, source, taken, 1000, repair=False)


async def test_kinds_and_namespaces_outside_the_export_are_left_out(world: World) -> None:
    run = AuditRun(SETTINGS, world.redis, request(builders.group(3)))
    assert await run.audit(HOME) == []
    assert run.left_out_kinds == {"project", "member", "agent", "job"}
    assert run.left_out_roots == {"40"}
    assert run.is_good


async def test_a_difference_is_counted_and_a_row(world: World) -> None:
    run = AuditRun(SETTINGS, world.redis, request(*COMPANY[:-1], STARTED))
    (row,) = await run.audit(HOME)
    assert isinstance(row, FindingRow)
    assert (row.key, row.what, row.line) == ("3/agent/6", FactMismatch.EXTRA, None)
    assert run.counts == {FactMismatch.EXTRA: 1}
    assert not run.is_good


async def test_a_newer_fact_is_counted_and_no_row(world: World) -> None:
    long_ago = await world.home.store.now() - 60_000
    run = AuditRun(SETTINGS, world.redis, request(*COMPANY[:-1], STARTED, taken=long_ago))
    assert await run.audit(HOME) == []
    assert run.counts == {FactMismatch.NEWER: 1}
    assert run.is_good


async def test_a_partition_without_a_checkpoint_is_not_compared(world: World) -> None:
    await world.partitions[OTHER].store.forget_checkpoint()
    run = AuditRun(SETTINGS, world.redis, request(*COMPANY))
    (row,) = await run.audit(OTHER)
    assert isinstance(row, NotComparedRow)
    assert "no checkpoint" in row.error
    assert not run.is_good


async def test_an_audit_with_another_retention_than_the_workers_is_refused(world: World) -> None:
    settings = Settings(tombstone_retention=3600)
    run = AuditRun(settings, world.redis, request(*COMPANY))
    with pytest.raises(DifferentRulesError, match="PROJECTOR_TOMBSTONE_RETENTION"):
        await run.audit(HOME)


async def test_a_repair_of_another_kafka_than_the_workers_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check_topics(settings: Settings) -> dict[str, int]:
        return {**dict.fromkeys(Topic, PARTITIONS + 1), DEAD_LETTERS: 1}

    async def refuse_nothing(settings: Settings) -> None:
        return None

    monkeypatch.setattr(topics, "check_topics", check_topics)
    monkeypatch.setattr(topics, "refuse_producers_time", refuse_nothing)
    now = await world.home.store.now()
    with pytest.raises(ChangedPartitionsError):
        await refuse_unsafe_repair(SETTINGS, world.redis, request(*COMPANY, taken=now))


async def test_an_old_export_is_refused_though_the_clock_of_redis_is_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was removed since could come back."""
    now = await world.home.store.now()

    async def check_topics(settings: Settings) -> dict[str, int]:
        return {**dict.fromkeys(Topic, PARTITIONS), DEAD_LETTERS: 1}

    async def refuse_nothing(settings: Settings) -> None:
        return None

    async def behind(*_: object) -> int:
        return now - 2 * SETTINGS.tombstone_retention_ms

    monkeypatch.setattr(topics, "check_topics", check_topics)
    monkeypatch.setattr(topics, "refuse_producers_time", refuse_nothing)
    monkeypatch.setattr(redis_batch, "server_time", behind)
    old = request(*COMPANY, taken=now - 2 * SETTINGS.tombstone_retention_ms)
    with pytest.raises(OperatorError, match="what was removed since could come back"):
        await refuse_unsafe_repair(SETTINGS, world.redis, old)
