"""Gets that arrive while others are under way share one call, and nobody waits in vain."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from redis.exceptions import ConnectionError as LostConnectionError

from api import read_batcher
from api.read_batcher import (
    MAX_BATCH,
    MAX_BATCHES,
    InTasks,
    OnValues,
    OverloadedError,
    ReadBatcher,
    SplitReads,
    Values,
)

PATIENCE_S = 2.0


class Server:
    """Answers each call once `release` lets it; the value of key `k` is `K`."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []
        self.error: Exception | None = None
        self._open = asyncio.Event()

    async def __call__(self, keys: Sequence[str]) -> Values:
        self.asked.append(keys)
        await self._open.wait()
        if self.error:
            raise self.error
        values = [None if key == "missing" else key.upper().encode() for key in keys]
        return Values(values, [f"server of {key}" for key in keys], b"overlay")

    def release(self) -> None:
        self._open.set()


def getting(some: ReadBatcher, keys: list[str]) -> list[asyncio.Task[bytes | None]]:
    return [asyncio.create_task(getting_one(some, key)) for key in keys]


async def getting_one(some: ReadBatcher, key: str) -> bytes | None:
    value, server, overlay = await some.get(key)
    assert (server, overlay) == (f"server of {key}", b"overlay")
    return value


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def ended(tasks: list[asyncio.Task[bytes | None]]) -> list[bytes | BaseException | None]:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def some(server: Server) -> ReadBatcher:
    return ReadBatcher(InTasks(server))


async def occupy(some: ReadBatcher) -> list[asyncio.Task[bytes | None]]:
    """Put as many reads in flight as there may be."""
    tasks = []
    for i in range(MAX_BATCHES):
        tasks += getting(some, [f"busy{i}"])
        await settle()
    return tasks


async def test_a_get_that_finds_nothing_in_flight_leaves_at_once(
    some: ReadBatcher, server: Server
) -> None:
    tasks = getting(some, ["a"])
    await settle()
    assert server.asked == [["a"]]
    server.release()
    assert await ended(tasks) == [b"A"]


async def test_gets_that_arrive_while_others_are_in_flight_share_one_call(
    some: ReadBatcher, server: Server
) -> None:
    first = await occupy(some)
    later = getting(some, ["a", "b", "missing", "a"])
    await settle()
    assert len(server.asked) == MAX_BATCHES
    server.release()
    assert await ended(later) == [b"A", b"B", None, b"A"]
    assert await ended(first) == [f"BUSY{i}".encode() for i in range(MAX_BATCHES)]
    assert server.asked[MAX_BATCHES:] == [["a", "b", "missing", "a"]]


async def test_a_batch_has_a_largest_size(some: ReadBatcher, server: Server) -> None:
    """One huge call would hold up the server for everybody."""
    await occupy(some)
    later = getting(some, [f"k{i}" for i in range(2 * MAX_BATCH + 1)])
    await settle()
    server.release()
    assert await ended(later) == [f"K{i}".encode() for i in range(2 * MAX_BATCH + 1)]
    assert [len(keys) for keys in server.asked[MAX_BATCHES:]] == [MAX_BATCH, MAX_BATCH, 1]


async def test_what_is_more_than_a_batch_leaves_in_several_at_once(
    some: ReadBatcher, server: Server
) -> None:
    tasks = getting(some, [f"k{i}" for i in range(MAX_BATCHES * MAX_BATCH + 1)])
    await settle()
    assert [len(keys) for keys in server.asked] == [MAX_BATCH] * MAX_BATCHES
    server.release()
    await ended(tasks)


@pytest.mark.parametrize(
    "error", [LostConnectionError("gone"), OSError("gone"), RuntimeError("broken")], ids=repr
)
async def test_an_error_reaches_every_waiter_and_the_next_get_works(
    some: ReadBatcher, server: Server, error: Exception
) -> None:
    """An error that nobody foresaw too: a waiter that hears nothing would wait for ever."""
    first = await occupy(some)
    later = getting(some, ["a", "b"])
    await settle()
    server.error = error
    server.release()
    assert [type(e) for e in await ended([*first, *later])] == [type(error)] * (MAX_BATCHES + 2)
    server.error = None
    assert await ended(getting(some, ["c"])) == [b"C"]


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
async def test_a_waiter_that_goes_away_hurts_nobody(
    some: ReadBatcher, server: Server, fails: bool
) -> None:
    in_flight = await occupy(some)
    queued = getting(some, ["a", "b", "c"])
    await settle()
    for leaving in (in_flight[0], queued[1]):
        leaving.cancel()
    await settle()
    server.error = LostConnectionError("gone") if fails else None
    server.release()
    answers = await ended([in_flight[1], queued[0], queued[2]])
    if fails:
        assert [type(answer) for answer in answers] == [LostConnectionError] * 3
    else:
        assert answers == [b"BUSY1", b"A", b"C"]


async def test_a_read_of_which_every_waiter_left_frees_its_place(
    some: ReadBatcher, server: Server
) -> None:
    in_flight = await occupy(some)
    for task in in_flight:
        task.cancel()
    later = getting(some, ["a"])
    await settle()
    server.release()
    assert await ended(later) == [b"A"]


async def test_beyond_the_bound_a_get_is_refused_and_later_ones_work(
    some: ReadBatcher, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_batcher, "MAX_PENDING", 2)
    in_flight = await occupy(some)
    queued = getting(some, ["a", "b"])
    await settle()
    with pytest.raises(OverloadedError, match="2 reads are waiting"):
        await some.get("c")
    server.release()
    assert await ended(queued) == [b"A", b"B"]
    await ended(in_flight)
    assert await ended(getting(some, ["c"])) == [b"C"]


async def test_a_batch_that_takes_too_long_is_given_up_and_the_next_one_read(
    some: ReadBatcher, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_batcher, "WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(read_batcher, "TIMEOUT_S", 0.05)
    late = await occupy(some)
    waiting = getting(some, ["a"])
    assert [type(answer) for answer in await ended(late)] == [TimeoutError] * MAX_BATCHES
    server.release()
    assert await ended(waiting) == [b"A"]


async def test_what_comes_of_a_batch_that_was_given_up_is_not_delivered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its waiter has had the error, and may be at its next read."""
    monkeypatch.setattr(read_batcher, "WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(read_batcher, "TIMEOUT_S", 0.05)
    given_up = asyncio.Event()
    late: list[OnValues] = []

    def start(_keys: Sequence[str], on_values: OnValues) -> Callable[[], object]:
        late.append(on_values)
        return given_up.set

    told: list[object] = []
    ReadBatcher(start).ask("a", lambda value, *_: told.append(value))
    async with asyncio.timeout(PATIENCE_S):
        await given_up.wait()
    await settle()
    late[0](Values([b"A"], [""]))
    assert [type(value) for value in told] == [TimeoutError]


async def test_reads_that_cannot_begin_have_the_error_and_keep_no_others_waiting() -> None:
    broken = [RuntimeError("broken")] * (MAX_BATCHES + 1)

    def start(keys: Sequence[str], on_values: OnValues) -> Callable[[], object]:
        if broken:
            raise broken.pop()
        asyncio.get_running_loop().call_soon(on_values, Values([b"here"] * len(keys), [""]))
        return lambda: None

    reads = ReadBatcher(start)
    for i in range(len(broken)):
        with pytest.raises(RuntimeError, match="broken"):
            await asyncio.wait_for(reads.get(f"k{i}"), PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        assert (await reads.get("a")).value == b"here"


async def test_a_batch_is_watched_though_the_next_one_cannot_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_batcher, "WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(read_batcher, "TIMEOUT_S", 0.05)

    def start(keys: Sequence[str], _on_values: OnValues) -> Callable[[], object]:
        if "silent" in keys:
            return lambda: None
        raise RuntimeError("broken")

    monkeypatch.setattr(read_batcher, "MAX_BATCH", 1)
    reads = ReadBatcher(start)
    late = [asyncio.create_task(reads.get(key)) for key in ("silent", "broken")]
    async with asyncio.timeout(PATIENCE_S):
        found = await asyncio.gather(*late, return_exceptions=True)
    assert [type(each) for each in found] == [TimeoutError, RuntimeError]


async def test_one_that_fails_to_take_its_value_hurts_nobody(
    some: ReadBatcher, server: Server
) -> None:
    told: list[object] = []

    def take(value: object, _server: str, _overlay: object) -> None:
        told.append(value)

    def careless(_value: object, _server: str, _overlay: object) -> None:
        raise RuntimeError("broken")

    for key, tell in (("a", take), ("b", careless), ("c", take)):
        some.ask(key, tell)
    server.release()
    await settle()
    assert server.asked == [["a", "b", "c"]]
    assert told == [b"A", b"C"]


async def test_a_silent_server_of_a_cluster_delays_its_own_reads_alone(server: Server) -> None:
    async def fetch(keys: Sequence[str]) -> Values:
        if keys[0].startswith("silent"):
            return await server(keys)
        return Values([b"here"] * len(keys), ["quick"] * len(keys))

    reads = SplitReads(InTasks(fetch), lambda key: key.split()[0])
    silent = [asyncio.create_task(reads.get(f"silent {i}")) for i in range(3)]
    await settle()
    async with asyncio.timeout(PATIENCE_S):
        assert await reads.get("quick 1") == (b"here", "quick", None)
    assert not any(task.done() for task in silent)
    server.release()
    async with asyncio.timeout(PATIENCE_S):
        assert (await asyncio.gather(*silent))[2] == (b"SILENT 2", "server of silent 2", b"overlay")
