"""A delivery of Faust's takes no task if it need not wait, and ends as with Faust otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import Service

from projector.config.settings import Settings
from projector.kafka.faust_consumer import DirectConsumer
from projector.worker.faust_app import create_app
from projector.worker.owner_group import OwnerGroup


class Failure(Exception):
    """Raised by a delivery."""


class Case(NamedTuple):
    """A delivery that gives way `turns` times and then ends, and what happens meanwhile."""

    turns: int
    ends: str
    resists: bool
    flow: str
    is_stopped: bool

    @property
    def ever_ends(self) -> bool:
        return self.ends != "never" or self.flow != "goes on" or self.is_stopped


CASES = [
    case
    for case in map(
        Case._make,
        product(
            (0, 1, 3), ("returns", "raises", "never"), (False, True),
            ("goes on", "ended", "ends", "cancelled"), (False, True),
        ),
    )
    if case.ever_ends
]  # fmt: skip


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Any]:
    owners = OwnerGroup(lambda partition: pytest.fail("no owner"))
    app = create_app(Settings(topic_prefix="x."), owners, str(tmp_path))
    yield app
    app.consumer._thread.thread_loop.close()


@pytest.fixture
def consumer(app: Any) -> Any:
    assert isinstance(app.consumer, DirectConsumer)
    return app.consumer


async def deliver(case: Case, steps: list[str]) -> str:
    steps.append("begun")
    try:
        for _ in range(case.turns):
            await asyncio.sleep(0)
        if case.ends == "never":
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        steps.append("cancelled")
        if not case.resists:
            raise
        await asyncio.sleep(0)
    if case.ends == "raises":
        raise Failure
    steps.append("done")
    return "delivered"


async def outcome(case: Case, wait_first: Callable[..., Any], consumer: Any) -> Any:
    """Return how the wait ends, and the steps of the delivery until soon after."""
    steps: list[str] = []
    flow, loop = asyncio.Event(), asyncio.get_running_loop()
    if case.flow == "ended":
        flow.set()
    (consumer._stopped.set if case.is_stopped else consumer._stopped.clear)()
    waiting = loop.create_task(wait_first(deliver(case, steps), flow.wait()))
    await many_turns()
    if case.flow in ("ends", "cancelled"):
        (flow.set if case.flow == "ends" else waiting.cancel)()
    try:
        results = await waiting
        found: Any = (results.stopped, "delivered" in results.results)
    except (Failure, asyncio.CancelledError) as error:
        found = type(error)
    await many_turns()
    return found, steps


async def many_turns() -> None:
    """Let everything run that need not wait."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.filterwarnings("error")
async def test_every_delivery_ends_as_with_faust(consumer: Any) -> None:
    for case in CASES:
        expected = await outcome(case, lambda *c: Service.wait_first(consumer, *c), consumer)
        assert await outcome(case, consumer.wait_first, consumer) == expected, case


async def test_one_wait_or_one_with_a_limit_is_fausts_own(consumer: Any) -> None:
    event = asyncio.Event()
    assert (await consumer.wait_first(event.wait(), timeout=0.001)).stopped
    assert (await consumer.wait_first(asyncio.sleep(0), event.wait(), timeout=1)).results == [None]
    asyncio.get_running_loop().call_soon(event.set)
    assert (await consumer.wait_first(event)).done == [event]


async def test_no_event_that_faust_drains_takes_a_task(
    app: Any, consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust made four for each event, and they cost more than all else that it does."""
    place = TP("x.membership", 0)
    created: list[object] = []
    delivered: list[int] = []
    fetcher = SimpleNamespace(_stopped=asyncio.Event())

    async def fetched(timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109
        asyncio.get_running_loop().set_task_factory(count)
        for offset in range(50):
            yield place, ConsumerMessage(*place, offset, 0.0, 0, (), None, None, None, tp=place)
        asyncio.get_running_loop().set_task_factory(None)
        fetcher._stopped.set()

    def count(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        created.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def take(message: Any) -> None:
        delivered.append(message.offset)

    monkeypatch.setattr(consumer, "getmany", fetched)
    monkeypatch.setattr(consumer, "callback", take)
    await consumer._drain_messages(fetcher)
    assert delivered == list(range(50))
    assert created == []
