"""Dead letters delay no event, and none is lost."""

import asyncio

import pytest

from projector.store import schema
from projector.worker import (
    dead_letter_outbox,
)
from tests import builders
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    Setup,
    differs,
    field_is,
    gets,
    until,
)


async def test_dead_letters_that_cannot_be_sent_hold_nobody_up(setup: Setup) -> None:
    setup.kafka.takes_letters = False
    async with setup.owning() as owner:
        records = setup.kafka.add(b"{", *COMPANY, builders.started(9, 7))
        setup.deliver(owner, *records)
        await until(lambda: gets(setup, "token-9", [5]))
        before = await setup.field("stamp")
        await until(lambda: differs(setup, before))
        assert await setup.field("facts") == b"6"
        await setup.redis.delete(schema.partition_key(PARTITION), schema.facts_key(PARTITION))
        await until(lambda: field_is(setup, "facts", b"6"))
    assert await setup.redis.hexists(schema.facts_key(PARTITION), "*/dead-letter/membership:0")
    setup.kafka.takes_letters = True
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        await until(lambda: setup.kafka.letters)
        (letter,) = setup.kafka.letters
        assert (letter.record.offset, letter.record.value) == (0, b"{")
        assert "not JSON" in letter.reason
        await until(lambda: field_is(setup, "facts", b"5"))
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("third"):
        assert await setup.agents() == [5]
    assert len(setup.kafka.letters) == 1


async def test_a_partition_waits_once_too_many_letters_do(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may be forgotten, and nothing may grow without bound."""
    monkeypatch.setattr(dead_letter_outbox, "MAX_LETTERS", 3)
    setup.kafka.takes_letters = False
    async with setup.owning() as owner:
        records = setup.kafka.add(*[b"{"] * 5, *COMPANY)
        setup.deliver(owner, *records)
        await asyncio.sleep(0.3)
        assert setup.acked == []
        setup.kafka.takes_letters = True
        await until(lambda: len(setup.acked) == len(records))
        await until(lambda: len(setup.kafka.letters) == 5)


async def test_letters_too_large_for_memory_are_read_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_outbox, "MAX_BYTES", 2)
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(b"{1", b"{2", b"{3"))
        await until(lambda: len(setup.kafka.letters) == 3)
        assert {letter.record.value for letter in setup.kafka.letters} == {b"{1", b"{2", b"{3"}
