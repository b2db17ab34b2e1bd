"""What stands in Redis for a token, held against what the facts say: for the sweep and `verify`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.clients.redis_cluster import CommandResult
from projector.domain.views import View
from projector.store.schema import ViewRecord

# How far a record's expiry may be from what was written before it counts as another.
EXPIRY_TOLERANCE_MS: Final = 5000

# When a key expires that does not.
NEVER: Final = 2**63
_ENDLESS: Final = -1


class Mismatch(StrEnum):
    """How a stored record is not what the facts say."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    STATUS = "status"
    BODY = "body"
    EXPIRY = "expiry"
    ORPHAN = "orphan"
    JOB_KEY = "job key"


class StoredValue(NamedTuple):
    """What stands under a key: its bytes (None: nothing, or no string), and its expiry in ms.

    `is_other` says that something stands there which is no string.
    """

    raw: bytes | None
    expires_at: int
    is_other: bool = False

    @property
    def record(self) -> ViewRecord | None:
        """The record; None where nothing stands, or nothing that can be read."""
        try:
            return None if self.raw is None else ViewRecord.decode(self.raw)
        except ValueError:
            return None

    @property
    def is_absent(self) -> bool:
        """Whether nothing stands there."""
        return self.raw is None and not self.is_other


class AgentDiff(NamedTuple):
    """The ids of the agents that a record allows and should not, should and does not, or as other.

    `others` are those whose entry says something else.
    """

    too_many: list[int]
    too_few: list[int]
    others: list[int]


async def read_values(redis: Redis, keys: Sequence[str]) -> list[StoredValue]:
    """What stands under each key, in one round trip to each server; raises `RedisError`."""
    if not keys:
        return []
    held = await redis_batch.execute(
        redis, [(name, key) for key in keys for name in ("GET", "PTTL")]
    )
    return [_stored(raw, left) for raw, left in zip(held[::2], held[1::2], strict=True)]


def _stored(raw: CommandResult, left: CommandResult) -> StoredValue:
    if isinstance(left.value, Exception):
        raise left.value
    expires_at = NEVER if left.value == _ENDLESS else int(left.now) + left.value
    if not isinstance(raw.value, Exception):
        return StoredValue(raw.value, expires_at)
    if isinstance(raw.value, ResponseError) and str(raw.value).startswith("WRONGTYPE"):
        return StoredValue(None, expires_at, is_other=True)
    raise raw.value


def mismatches(view: View, partition: int, stored: StoredValue) -> list[Mismatch]:
    """How the record differs from the view, which is not expired; empty if it says the same."""
    record = stored.record
    if record is None:
        return [Mismatch.MISSING if stored.is_absent else Mismatch.UNREADABLE]
    if record.partition != partition:
        return [Mismatch.FOREIGN]
    found = []
    if record.status != view.status:
        found.append(Mismatch.STATUS)
    if record.body != view.body:
        found.append(Mismatch.BODY)
    if abs(view.expires_at - stored.expires_at) >= EXPIRY_TOLERANCE_MS:
        found.append(Mismatch.EXPIRY)
    return found


def diff_agents(view: View | None, stored: StoredValue) -> AgentDiff:
    """Which agents the record allows that the view does not, and the other way round."""
    theirs = allowed_agents(stored.record)
    ours = _entries(view.status, view.body) if view else {}
    return AgentDiff(
        sorted(theirs.keys() - ours.keys()),
        sorted(ours.keys() - theirs.keys()),
        sorted(number for number in ours.keys() & theirs.keys() if ours[number] != theirs[number]),
    )


def grants_more(view: View | None, stored: StoredValue) -> bool:
    """Whether the record may allow what the facts do not; in doubt it does.

    It does not where it names fewer agents and is the same in all else, the user's roles too.
    """
    record = stored.record
    if record is None or record.status != 200:
        return False
    try:
        body = msgspec.json.decode(record.body)
        if not body["allowed_agents"]:
            return False
        if view is None or view.status != 200:
            return True
        ours = msgspec.json.decode(view.body)
        outlives = stored.expires_at >= view.expires_at + EXPIRY_TOLERANCE_MS
        more = any(entry not in ours["allowed_agents"] for entry in body["allowed_agents"])
        return bool(outlives or more or _rest(body) != _rest(ours))
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        return True


def allowed_agents(record: ViewRecord | None) -> dict[int, Any]:
    """The entries of the agents that a record allows, by id, as far as that can be read."""
    return {} if record is None else _entries(record.status, record.body)


def _entries(status: int, body: bytes) -> dict[int, Any]:
    try:
        entries = msgspec.json.decode(body)["allowed_agents"] if status == 200 else []
        return {entry["id"]: entry for entry in entries if isinstance(entry["id"], int)}
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        return {}


def _rest(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "allowed_agents"}
