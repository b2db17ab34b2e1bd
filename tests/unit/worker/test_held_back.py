"""Bulk changes hold back views from before these are marked until behind the checkpoint."""

from collections.abc import Set
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.domain.index import fact_index
from projector.domain.views import ViewId
from projector.errors import WriteRefusedError
from projector.store import overlay, schema
from projector.store.overlay import HeldBack
from projector.store.overlay_line import OverlayLine
from projector.store.partition_store import PartitionStore
from projector.store.schema import Version
from projector.worker import view_writer
from projector.worker.owner import Owner
from tests import builders
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    Setup,
    Writes,
    gets,
    is_claimed_above,
    until,
)

JOBS = range(9, 13)
AGENT = frozenset({"agent:5"})
REVOKED = builders.removed("agent", 5)


@pytest.fixture(autouse=True)
def bulk(monkeypatch: pytest.MonkeyPatch, setup: Setup) -> None:
    """Four live jobs; more than one view is a bulk, and every view a portion of its own."""
    monkeypatch.setattr(view_writer, "VIEWS_AT_ONCE", 0)
    monkeypatch.setattr(fact_index, "STEP", 1)
    monkeypatch.setattr(fact_index, "BULK", 1)
    monkeypatch.setattr(view_writer, "VIEWS_PER_PORTION", 1)
    setup.kafka.add(*COMPANY, *(builders.started(job, 7) for job in JOBS))


async def held(setup: Setup) -> HeldBack | None:
    """Return the names of all lines of the partition, with the first version."""
    lines = overlay.decode(await setup.redis.get(schema.OVERLAY) or b"").get(PARTITION)
    if not lines:
        return None
    return HeldBack(min(lines).version, frozenset().union(*(line.names for line in lines)))


class Order(Writes):
    """Also records the names that are held back at each write of views and at the checkpoint."""

    def __init__(self, setup: Setup, owner: Any) -> None:
        super().__init__(setup, owner)
        self.held: list[frozenset[str]] = []
        self.versions: list[Version] = []

    async def write_views(self, changed: Any, *args: Any) -> Any:
        await self._note()
        return await super().write_views(changed, *args)

    async def commit(self, changed: Any, *args: Any) -> bool:
        await self._note()
        return await super().commit(changed, *args)

    async def checkpoint(self, *args: Any) -> None:
        await self._note()
        await super().checkpoint(*args)

    async def _note(self) -> None:
        line = await held(self._setup)
        self.held.append(line.names if line else frozenset())
        self.versions.append(line.version if line else Version(0, 0))


async def test_it_is_held_back_before_all_is_marked_and_until_the_checkpoint(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with setup.owning() as owner:
        writes, marked = Order(setup, owner), []
        add = OverlayLine.add

        async def noting(line: OverlayLine, names: Set[str]) -> None:
            await add(line, names)
            marked.append((await held(setup), len(dirty_views(owner))))

        monkeypatch.setattr(OverlayLine, "add", noting)
        before = owner.version
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(lambda: setup.acked)
        expected = HeldBack(before._replace(revision=before.revision + 1), AGENT)
        assert marked == [(expected, 2)]
        assert writes.held == [AGENT] * (len(JOBS) + 1)
        assert await held(setup) is None
        for job in JOBS:
            assert await setup.agents(f"token-{job}") == []


async def test_views_that_go_with_the_checkpoint_are_held_back_until_then(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_writer, "VIEWS_AT_ONCE", len(JOBS))
    async with setup.owning() as owner:
        writes = Order(setup, owner)
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(lambda: setup.acked)
        assert writes.held == [AGENT]
        assert await held(setup) is None


async def test_a_small_change_and_what_a_claim_reads_hold_back_nothing(setup: Setup) -> None:
    adding = AsyncMock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OverlayLine, "add", adding)
        async with setup.owning() as owner:
            setup.deliver(owner, *setup.kafka.add(builders.removed("job", 9)))
            await until(lambda: setup.acked)
        setup.kafka.add(REVOKED)
        async with setup.owning("next"):
            await until(lambda: gets(setup, "token-10", []))
    assert not adding.called


async def test_a_bulk_change_during_a_long_write_is_held_back_too(setup: Setup) -> None:
    async with setup.owning() as owner:
        writes = Order(setup, owner)

        def arrive(written: int) -> None:
            if written == 2:
                blocked = builders.user(1, "blocked")
                setup.deliver(owner, *setup.kafka.add(blocked))

        writes.before_write = arrive
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(lambda: len(setup.acked) == 2)
        assert writes.held[:3] == [AGENT, AGENT, AGENT | {"user:1"}]
        assert set(writes.held[3:]) == {AGENT | {"user:1"}}
        assert await held(setup) is None


async def test_redis_away_delays_the_line_to_the_next_portion(setup: Setup) -> None:
    """The facts change to their end, and no view is written before it."""
    async with setup.owning() as owner:
        writes = Order(setup, owner)
        script = owner._store.overlay._set_lines
        broken: Any = owner._store.overlay
        broken._set_lines = AsyncMock(side_effect=RedisConnectionError("down"))

        def recover(written: int) -> None:
            broken._set_lines = script

        writes.before_write = recover
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(lambda: setup.acked)
        assert writes.held == [frozenset(), *[AGENT] * len(JOBS)]
        assert await held(setup) is None


async def test_a_removal_that_redis_does_not_take_is_repeated_without_a_checkpoint(
    setup: Setup,
) -> None:
    async with setup.owning() as owner:
        line: Any = owner._store.overlay
        script = line._set_lines

        async def refuse_removal(*, keys: Any, args: Any) -> Any:
            if args[2]:
                return await script(keys=keys, args=args)
            line._set_lines = script
            raise RedisConnectionError("down")

        line._set_lines = refuse_removal
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(lambda: setup.acked)
        version = owner.version
        await until(lambda: is_removed(setup))
        assert owner.version == version


@pytest.mark.parametrize(
    "change",
    [REVOKED, builders.user(1, "blocked"), builders.removed("project", 7)],
    ids=lambda value: value["type"],
)
async def test_a_change_is_named_once(setup: Setup, change: builders.Message) -> None:
    """Views are marked before and behind the change of the facts."""
    async with setup.owning() as owner:
        named: list[str] = []
        add = OverlayLine.add

        async def noting(line: OverlayLine, names: Set[str]) -> None:
            named.extend(names)
            await add(line, names)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OverlayLine, "add", noting)
            setup.deliver(owner, *setup.kafka.add(change))
            await until(lambda: setup.acked)
        assert named
        assert len(named) == len(set(named))


async def test_an_owner_that_heals_holds_back_what_it_has_not_written(setup: Setup) -> None:
    """Its first write was refused. The line of its former claim may be lost, and does not count."""
    async with setup.owning() as owner:
        writes = Order(setup, owner)
        before = owner.version

        def refuse(written: int) -> None:
            if written == 2:
                raise WriteRefusedError("Redis failed over")

        writes.before_write = refuse
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(lambda: is_claimed_above(setup, before.epoch))
        await until(lambda: "checkpoint" in writes.order)
        assert writes.held == [AGENT] * 4
        assert writes.versions[:2] == [before._replace(revision=before.revision + 1)] * 2
        assert all(version.epoch > before.epoch for version in writes.versions[2:])
        await until(lambda: is_removed(setup))


async def test_a_claim_removes_what_a_former_owner_left(setup: Setup) -> None:
    left = overlay.encode_line(PARTITION, Version(1, 1), AGENT)
    other = overlay.encode_line(PARTITION + 1, Version(1, 1), AGENT)
    await setup.redis.set(schema.OVERLAY, f"{left}\n{other}\n")
    async with setup.owning():
        assert await setup.redis.get(schema.OVERLAY) == f"{other}\n".encode()


async def test_a_replaced_owner_sets_its_line_in_vain_and_ends(setup: Setup) -> None:
    async with setup.owning() as owner:
        newer = overlay.encode_line(PARTITION, Version(2**43, 1), {"user:2"})
        store = PartitionStore(setup.redis, setup.server, PARTITION, "other")
        await store.claim(1)
        await setup.redis.set(schema.OVERLAY, f"{newer}\n")
        setup.deliver(owner, *setup.kafka.add(REVOKED))
        await until(owner._stopped.is_set)
        line = await held(setup)
        assert line
        assert line.names == {"user:2"}


async def is_removed(setup: Setup) -> bool:
    return await held(setup) is None


def dirty_views(owner: Owner) -> set[ViewId]:
    return set(owner._applier.projection.facts.dirty)
