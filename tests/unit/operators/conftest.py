"""The partition that the tests of rebuilding share."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.worker.owned_partition import Setup


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    yield setup
    await setup.redis.aclose()
