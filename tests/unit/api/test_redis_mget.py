"""One MGET over a connection that is kept, and what becomes of that connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import ResponseError

from api.redis_mget import Mget

TIMEOUT_S = 3.0
PATIENCE_S = 5.0


@pytest.fixture
async def redis() -> AsyncIterator[FakeAsyncRedis]:
    redis = FakeAsyncRedis(server=FakeServer(), socket_timeout=TIMEOUT_S)
    await redis.mset({"a": "A", "b": "B"})
    yield redis
    await redis.aclose()


def failing_once(mget: Mget, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kept connection fail at its next answer."""
    (kept,) = mget._kept
    read, failed = kept.read_response, False

    async def read_response(**kwargs: Any) -> Any:
        nonlocal failed
        if failed:
            return await read(**kwargs)
        failed = True
        await kept.disconnect()
        raise error

    monkeypatch.setattr(kept, "read_response", read_response)


async def test_the_values_come_in_the_order_of_the_keys(redis: FakeAsyncRedis) -> None:
    found = await Mget(redis)(["b", "missing", "a", "b"])
    assert found == ([b"B", None, b"A", b"B"], ["", "", "", ""], None)


async def test_the_overlay_is_read_with_the_keys(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await redis.set("allowed-agents:overlay", b"0003 ...")
    mget = Mget(redis)
    assert await mget(["a", "b"]) == ([b"A", b"B"], ["", ""], b"0003 ...")
    failing_once(mget, LostConnectionError("gone"), monkeypatch)
    assert await mget(["a"]) == ([b"A"], [""], b"0003 ...")


async def test_one_connection_serves_call_after_call_and_two_at_once_have_one_each(
    redis: FakeAsyncRedis,
) -> None:
    mget = Mget(redis)
    await mget(["a"])
    (kept,) = mget._kept
    await mget(["a"])
    assert mget._kept == [kept]
    one, other = await mget._take(), await mget._take()
    assert one is kept is not other


async def test_a_connection_from_before_another_server_answered_is_given_up(
    redis: FakeAsyncRedis,
) -> None:
    mget = Mget(redis)
    await mget(["a"])
    (kept,) = mget._kept
    kept.mark_for_reconnect()  # type: ignore[no-untyped-call]
    session = kept._reader
    assert (await mget(["a"])).values == [b"A"]
    assert [connection._reader for connection in mget._kept] != [session]


async def test_a_connection_that_was_lost_is_replaced_within_the_call(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    mget = Mget(redis)
    await mget(["a"])
    failing_once(mget, LostConnectionError("gone"), monkeypatch)
    assert (await mget(["a", "b"])).values == [b"A", b"B"]
    assert (await mget(["a"])).values == [b"A"]


async def test_what_redis_refuses_is_asked_once(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    mget = Mget(redis)
    await mget(["a"])
    failing_once(mget, ResponseError("no"), monkeypatch)
    with pytest.raises(ResponseError):
        await mget(["a"])
    assert (await mget(["a"])).values == [b"A"]


async def test_a_call_that_is_given_up_leaves_nothing_for_the_next(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may still come, and would be taken for that of the next call."""
    mget = Mget(redis)
    await mget(["a"])
    (kept,) = mget._kept
    silent = asyncio.Event()
    monkeypatch.setattr(kept, "_read_response", lambda **_: silent.wait())
    call = asyncio.create_task(mget(["a"]))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait({call}, timeout=PATIENCE_S)
    assert call.cancelled()
    monkeypatch.undo()
    assert not kept.is_connected
    assert (await mget(["b"])).values == [b"B"]


@pytest.mark.parametrize("error", [LostConnectionError("gone"), ResponseError("no")], ids=repr)
async def test_the_pool_gets_connections_back_as_they_were(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Others use them, and rely on their timeout."""
    mget = Mget(redis)
    await mget(["a"])
    (kept,) = mget._kept
    assert kept.socket_timeout is None
    failing_once(mget, error, monkeypatch)
    await asyncio.gather(mget(["a"]), return_exceptions=True)
    assert await redis.get("a") == b"A"
    assert not mget._kept
    assert kept.socket_timeout == TIMEOUT_S


async def test_while_redis_is_away_every_call_fails_and_then_works_again() -> None:
    server = FakeServer()
    redis = FakeAsyncRedis(server=server, socket_timeout=TIMEOUT_S)
    mget = Mget(redis)
    assert (await mget(["a"])).values == [None]
    server.connected = False
    for _ in range(3):
        with pytest.raises(LostConnectionError):
            await mget(["a"])
    server.connected = True
    assert (await mget(["a"])).values == [None]
    await redis.aclose()
