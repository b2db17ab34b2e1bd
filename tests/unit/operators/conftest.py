"""A partition with views; and no test waits for an owner as long as a command would."""

from collections.abc import AsyncIterator

import fakeredis
import pytest

from projector.operators import explain, snapshot
from projector.operators.verify import comparison
from tests.unit.operators.verify.stored_views import COMPANY
from tests.unit.operators.worlds import OwnedPartition
from tests.unit.worker.owned_partition import Setup


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.05)
    monkeypatch.setattr(snapshot, "PAUSE_S", 0.01)
    monkeypatch.setattr(explain, "PAUSE_S", 0.01)
    monkeypatch.setattr(comparison, "PAUSE_S", 0.0)


@pytest.fixture
async def owned() -> AsyncIterator[OwnedPartition]:
    async with fakeredis.FakeAsyncRedis() as redis:
        partition = OwnedPartition(redis)
        await partition.claim()
        await partition.apply(*COMPANY)
        yield partition


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    yield setup
    await setup.redis.aclose()
