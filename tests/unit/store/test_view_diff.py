"""How a stored record differs from a view, and whether it grants more."""

from typing import Any

import fakeredis
import msgspec
import pytest

from projector.domain.views import View, ViewId
from projector.store import view_diff
from projector.store.schema import Version, ViewRecord
from projector.store.view_diff import NEVER, StoredValue

AGENT = {"id": 5, "config_project": {"id": 7}, "configuration": {}}


def stored(document: Any, status: int = 200) -> StoredValue:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return StoredValue(ViewRecord(status, 0, Version(1, 1), body).encode(), 10**6)


def expected(document: Any, status: int = 200) -> View:
    return View(ViewId("9"), 9, status, msgspec.json.encode(document), 10**6)


@pytest.mark.parametrize(
    ("record", "view", "more"),
    [
        (stored({"allowed_agents": [AGENT]}), expected({"allowed_agents": [AGENT]}), False),
        (stored({"allowed_agents": []}), expected({"allowed_agents": [AGENT]}), False),
        (stored({"allowed_agents": [AGENT]}), expected({"allowed_agents": []}), True),
        (stored({"allowed_agents": [AGENT]}), expected({"message": "no"}, 403), True),
        (stored({"allowed_agents": [AGENT]}), None, True),
        (stored({"allowed_agents": [AGENT]}, 403), expected({"allowed_agents": []}), False),
        (stored(b"[]"), expected({"allowed_agents": []}), True),
        (stored(b"{"), None, True),
        (stored(b"[" * 10_000), None, True),
        (
            stored({"allowed_agents": [AGENT | {"configuration": {"x": 1}}]}),
            expected({"allowed_agents": [AGENT]}),
            True,
        ),
        (
            stored({"allowed_agents": [AGENT], "user": {"id": 1}}),
            expected({"allowed_agents": [AGENT], "user": {"id": 2}}),
            True,
        ),
    ],
)
def test_a_record_grants_more_unless_it_only_lacks_agents(
    record: StoredValue, view: View | None, more: bool
) -> None:
    assert view_diff.grants_more(view, record) is more


def test_agents_too_many_too_few_and_otherwise_are_told_apart() -> None:
    other = AGENT | {"id": 6, "configuration": {"x": 1}}
    view = expected({"allowed_agents": [AGENT, AGENT | {"id": 6}]})
    found = view_diff.diff_agents(view, stored({"allowed_agents": [other, AGENT | {"id": 7}]}))
    assert found == view_diff.AgentDiff([7], [5], [6])


async def test_values_of_every_kind_are_read() -> None:
    async with fakeredis.FakeAsyncRedis() as redis:
        await redis.set("endless", b"x")
        await redis.set("ending", b"y", px=60_000)
        await redis.rpush("list", b"z")
        now = 1000 * (await redis.time())[0]
        endless, ending, other, missing = await view_diff.read_values(
            redis, ["endless", "ending", "list", "missing"]
        )
        assert await view_diff.read_values(redis, []) == []
    assert endless == StoredValue(b"x", NEVER)
    assert ending.raw == b"y"
    assert abs(ending.expires_at - now - 60_000) < view_diff.EXPIRY_TOLERANCE_MS
    assert (other.raw, other.is_other, other.is_absent) == (None, True, False)
    assert (missing.raw, missing.is_other, missing.is_absent) == (None, False, True)
