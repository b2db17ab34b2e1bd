"""Views go to Redis before the checkpoint, and outages lose none of them."""

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from projector.events.model import Topic
from projector.store import schema
from projector.store.partition_store import PartitionStore
from projector.worker import view_writer
from projector.worker.sweep import ViewSweep
from tests import builders
from tests.builders import digest
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    Setup,
    Writes,
    field_is,
    gets,
    until,
)


class LateLetters:
    """Takes a dead letter once it `may_go`."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()

    async def send(self, _letter: Any) -> None:
        await self.may_go.wait()


@pytest.mark.usefixtures("one_view_each")
async def test_an_outage_in_a_long_write_loses_none_of_its_views(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, *(builders.started(job, 7) for job in (9, 10, 11)))
    async with setup.owning() as owner:
        writes = Writes(setup, owner)

        def fail(written: int) -> None:
            if written in (2, 3):
                raise RedisConnectionError("down")

        writes.before_write = fail
        setup.deliver(owner, *setup.kafka.add(builders.removed("agent", 5)))
        await until(lambda: setup.acked)
        assert writes.order[1] == writes.order[2] == writes.order[3]
        for job in (9, 10, 11):
            assert await setup.agents(f"token-{job}") == []


async def test_a_jobs_key_is_written_with_its_start_and_by_every_claim(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ViewSweep, "run_portion", AsyncMock())
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.redis.get(schema.job_key(9)))
        await setup.redis.delete(schema.job_key(9))
        setup.deliver(owner, *setup.kafka.add(builders.removed("agent", 5)))
        await until(lambda: gets(setup, "token-9", []))
        assert not await setup.redis.exists(schema.job_key(9))
        await setup.redis.delete(schema.partition_key(PARTITION))
        await until(lambda: setup.redis.get(schema.job_key(9)))
    await setup.redis.delete(schema.job_key(9))
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.redis.get(schema.job_key(9)) == digest("token-9").encode()


async def test_a_letter_sent_while_views_are_written_still_counts_in_their_checkpoint(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has its field. With another number the next claim would drop all of it."""
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        letters = LateLetters()
        monkeypatch.setattr(owner._outbox, "_dead_letters", letters)
        write_views = owner._store.write_views

        async def send_first(*args: Any) -> Any:
            letters.may_go.set()
            await until(lambda: len(owner._outbox) == 0)
            return await write_views(*args)

        monkeypatch.setattr(owner._store, "commit", AsyncMock(return_value=False))
        monkeypatch.setattr(owner._store, "write_views", send_first)
        counts = list[tuple[int, int]]()
        checkpoint = owner._store.checkpoint

        async def count(offsets: Any, fields: Any, total: int, *others: Any) -> None:
            await checkpoint(offsets, fields, total, *others)
            counts.append((total, await setup.redis.hlen(schema.facts_key(PARTITION))))

        monkeypatch.setattr(owner._store, "checkpoint", count)
        setup.deliver(owner, *setup.kafka.add(b"garbage", builders.started(9, 7)))
        await until(lambda: len(setup.acked) == 2)
        assert counts
        assert all(total == stored for total, stored in counts)


async def test_a_redis_outage_delays_and_loses_nothing(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        execute = setup.redis.execute_command
        broken: Any = setup.redis

        async def fail(*_: Any, **__: Any) -> None:
            raise RedisConnectionError("down")

        broken.execute_command = fail
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await asyncio.sleep(0.3)
        assert setup.acked == []
        broken.execute_command = execute
        await until(setup.agents)


async def test_an_event_alone_is_written_in_one_call(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        store: Any = owner._store
        store.write_views = store.checkpoint = AsyncMock(side_effect=AssertionError)
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.acked)
        assert await setup.agents() == [5]
        assert await setup.has_applied(Topic.JOB_LIFECYCLE, 1)
        assert await setup.redis.get(schema.job_key(9)) == digest("token-9").encode()


async def test_a_call_whose_answer_is_lost_is_repeated_as_it_was(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        store: Any = owner._store
        commit, calls, before = store.commit, list[Any](), owner.version.revision

        async def lose_the_first_answer(*args: Any) -> bool:
            calls.append(args)
            done: bool = await commit(*args)
            if len(calls) == 1:
                store._revision = before
                raise RedisConnectionError("lost")
            return done

        store.commit = lose_the_first_answer
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
        await until(lambda: setup.acked)
        assert calls == [calls[0]] * 2
        assert owner.version.revision == before + 1
        assert await setup.agents() == [5]


async def test_what_one_call_cannot_write_is_written_in_several(setup: Setup) -> None:
    """A record of another partition stays, and the events behind it are applied all the same."""
    foreign = schema.ViewRecord(200, 5, schema.Version(1, 1), b"{}").encode()
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        writes = Writes(setup, owner)
        await setup.redis.set(schema.record_key(digest("token-9")), foreign)
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7), builders.started(10, 7)))
        await until(lambda: len(setup.acked) == 2)
        assert writes.order[-2:] in ([[9, 10], "checkpoint"], [[10, 9], "checkpoint"])
        assert await setup.redis.get(schema.record_key(digest("token-9"))) == foreign
        assert await setup.agents("token-10") == [5]


async def test_no_view_waits_until_many_facts_are_encoded(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removed group may end 100,000 memberships, and revoke what few views list."""
    monkeypatch.setattr(view_writer, "FIELDS_PER_CALL", 1)
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        writes, applier = Writes(setup, owner), owner._applier
        take = applier.take_fields

        async def taken() -> Any:
            writes.order.append("fields")
            return await take()

        monkeypatch.setattr(applier, "take_fields", taken)
        setup.deliver(owner, *setup.kafka.add(builders.removed("group", 3)))
        await until(lambda: setup.acked)
        written = writes.order.index([9])
        assert writes.order[written : written + 3] == [[9], "fields", "checkpoint"]


async def test_a_view_that_time_alone_changes_gets_a_checkpoint(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its revision would be higher than that of every claim that follows."""
    clock = [builders.NOW]

    async def now(_store: PartitionStore) -> int:
        return clock[0]

    monkeypatch.setattr(PartitionStore, "now", now)
    until_then = builders.member(2, project_id=7, expires_at="2027-01-15T08:00:10Z")
    setup.kafka.add(*COMPANY, until_then, builders.started(9, 7, 2))
    async with setup.owning() as owner:
        before = owner.version.revision
        clock[0] = builders.NOW + 10_000
        await until(lambda: gets(setup, "token-9", []))
        await until(lambda: field_is(setup, "revision", b"%d" % (before + 1)))


async def test_an_event_that_changes_nothing_moves_the_checkpoint_on(setup: Setup) -> None:
    """Otherwise the next owner would begin before it again and again."""
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(builders.group(3, sequence="5")))
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 1))
        before = await setup.redis.hgetall(schema.facts_key(PARTITION))
        setup.deliver(owner, *setup.kafka.add(builders.group(3, path="old", sequence="4")))
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 2))
        assert await setup.redis.hgetall(schema.facts_key(PARTITION)) == before


async def test_lists_that_are_too_large_are_counted_and_reported_once_a_minute(
    setup: Setup,
) -> None:
    """Not once for each token: one event may refuse 100,000."""
    name = "projector_too_large_views_total"
    before = REGISTRY.get_sample_value(name) or 0
    setup.kafka.add(*COMPANY, *(builders.started(job, 7) for job in range(9, 19)))
    setup.max_view_bytes = 1024
    large = builders.configured(5, projects=[{"id": 7, "note": "x" * 1000}])
    with capture_logs() as logs:
        async with setup.owning() as owner:
            for message, status in (
                (large, 503), (builders.configured(5, projects=[]), 200), (large, 503),
            ):  # fmt: skip
                setup.deliver(owner, *setup.kafka.add(message))
                await until(lambda status=status: has_status(setup, status))  # type: ignore[misc]
            assert await setup.status("token-18") == 503
    # The sweep counts them as well.
    assert (REGISTRY.get_sample_value(name) or 0) >= before + 20
    reported = [entry for entry in logs if "too large" in entry["event"]]
    assert [(entry["log_level"], entry["project"]) for entry in reported] == [("warning", 7)]


async def has_status(setup: Setup, status: int) -> bool:
    return await setup.status() == status
