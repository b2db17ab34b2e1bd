"""An ingest without servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.ingest.ingest_world import IngestWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[IngestWorld]:
    world = IngestWorld(tmp_path)
    async with world.http:
        yield world
    await world.redis.aclose()
