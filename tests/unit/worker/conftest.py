"""The partition that the worker's tests share."""

from collections.abc import AsyncIterator

import pytest

from projector.worker import view_writer
from tests.unit.worker.owned_partition import Setup


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    yield setup
    await setup.redis.aclose()


@pytest.fixture
def one_view_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every portion of a long write has one view."""
    monkeypatch.setattr(view_writer, "VIEWS_PER_PORTION", 1)
    monkeypatch.setattr(view_writer, "VIEWS_AT_ONCE", 0)
