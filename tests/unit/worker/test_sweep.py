"""The sweep sees everything once a round, never much at once, and nothing that is none of its."""

import asyncio
from itertools import chain

import fakeredis
import pytest

from projector.store import schema
from projector.store.schema import Version, ViewRecord
from projector.worker import sweep
from projector.worker.sweep import OrphanScan, SweepSchedule
from tests.builders import digest


def taken(rounds: SweepSchedule, tokens: list[str], ticks: int) -> list[list[str]]:
    portions = []
    for _ in range(ticks):
        rounds.tick()
        portions.append(rounds.take(lambda: tokens))
    return portions


def test_every_token_has_its_turn_once_a_round() -> None:
    tokens = [str(n) for n in range(10)]
    portions = taken(SweepSchedule(interval=1.0, tick=0.25), tokens, ticks=8)
    assert sorted(chain(*portions[:4])) == tokens
    assert sorted(chain(*portions[4:])) == tokens
    assert max(map(len, portions)) == 3


def test_few_tokens_are_not_compared_more_often_than_ticks_allow() -> None:
    rounds = SweepSchedule(interval=100.0, tick=0.25)
    assert rounds.take(lambda: ["a"]) == []
    rounds.tick()
    assert rounds.take(lambda: ["a"]) == ["a"]
    assert rounds.take(lambda: ["a"]) == []
    assert taken(rounds, [], ticks=2) == [[], []]


def test_a_portion_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MAX_PER_TICK", 5)
    portions = taken(SweepSchedule(interval=0.25, tick=0.25), [str(n) for n in range(12)], ticks=3)
    assert [len(portion) for portion in portions] == [5, 5, 2]


def test_a_suspect_is_taken_once_and_not_too_many_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "MAX_SUSPECTS", 2)
    rounds = SweepSchedule(1.0, 0.25)
    for suspect in ("a", "a", "b", "c"):
        rounds.suspect(suspect)
    assert sorted(rounds.take_suspects()) == ["a", "b"]
    assert rounds.take_suspects() == []


async def test_every_live_record_is_named_and_nothing_else() -> None:
    named: list[tuple[int, str]] = []
    async with fakeredis.FakeAsyncRedis() as redis:
        for number in range(1200):
            record = ViewRecord(200, number % 3, Version(7, 1), b"{}")
            await redis.set(schema.token_record_key(digest(str(number))), record.encode())
        await redis.set(
            schema.token_record_key("ended"), ViewRecord(401, 1, Version(7, 1), b"").encode()
        )
        await redis.set(schema.token_record_key("garbage"), b"x")
        await redis.set(schema.token_record_key("").encode() + b"\xff", b"x")
        await redis.rpush(schema.token_record_key("list"), "x")
        await redis.set(schema.job_token_key(9), "x")
        scan = OrphanScan(redis, 0.0, lambda *found: named.append(found))
        await scan._scan()
    assert set(named) == {(n % 3, digest(str(n))) for n in range(1200)}


async def test_a_walk_outlasts_an_outage() -> None:
    server = fakeredis.FakeServer()
    async with fakeredis.FakeAsyncRedis(server=server) as redis:
        await redis.set(
            schema.token_record_key("a"), ViewRecord(200, 1, Version(7, 1), b"{}").encode()
        )
        named = asyncio.Event()
        server.connected = False
        walking = asyncio.create_task(OrphanScan(redis, 0.0, lambda *_: named.set()).run())
        await asyncio.sleep(0.1)
        assert not named.is_set()
        server.connected = True
        await asyncio.wait_for(named.wait(), 5)
        walking.cancel()
