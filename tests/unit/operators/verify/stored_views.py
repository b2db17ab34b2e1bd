"""Stored views of a partition, compared and damaged."""

from typing import Any

from projector.domain.decision import ViewRules
from projector.operators.verify import comparison
from projector.operators.verify.comparison import Findings, Verifier
from projector.operators.verify.differences import Difference
from projector.operators.verify.repair import ViewRepairer
from projector.store import schema, view_diff
from projector.store.schema import ViewRecord
from tests import builders
from tests.builders import digest
from tests.unit.operators.worlds import FOREVER, HOME, LEVEL, OTHER, OwnedPartition

# Agents 5 and 6 may be used by job 9, and by no other.
COMPANY = [
    builders.project(7), builders.member(1, project_id=7), builders.agent(5, 7),
    builders.agent(6, 7), builders.started(9, 7, expires_at=FOREVER),
    builders.started(8, 7, 2, expires_at=FOREVER),
]  # fmt: skip
NINE = schema.record_key(digest("token-9"))


async def found(owned: OwnedPartition, partition: int = HOME) -> Findings:
    verifier = Verifier(owned.redis, ViewRules(LEVEL))
    live = await comparison.live_records(owned.redis, [HOME, OTHER])
    return await verifier.verify(partition, live)


async def only(owned: OwnedPartition) -> Difference:
    (difference,) = (await found(owned)).differences
    return difference


async def agents(owned: OwnedPartition) -> list[int] | None:
    raw: Any = await owned.redis.get(NINE)
    return None if raw is None else list(view_diff.allowed_agents(ViewRecord.decode(raw)))


async def damage(owned: OwnedPartition, old: bytes, new: bytes, key: str = NINE) -> None:
    raw: Any = await owned.redis.get(key)
    assert old in raw
    await owned.redis.set(key, raw.replace(old, new), keepttl=True)


def repairer(owned: OwnedPartition) -> ViewRepairer:
    return ViewRepairer(owned.redis, Verifier(owned.redis, ViewRules(LEVEL)))
