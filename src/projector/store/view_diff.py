"""Differences between records in Redis and computed views, for the sweep and `verify`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projector.clients import redis_batch
from projector.clients.redis_cluster import CommandResult
from projector.domain.views import View, ViewId
from projector.store import schema
from projector.store.schema import ViewRecord

# Below this difference, two times of expiry count as the same.
EXPIRY_TOLERANCE_MS: Final = 5000
# The expiry of a key without one.
NEVER: Final = 2**63
_NO_EXPIRY: Final = -1


class Mismatch(StrEnum):
    """A way in which a stored record differs from its view."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    STATUS = "status"
    BODY = "body"
    EXPIRY = "expiry"
    ORPHAN = "orphan"
    JOB_KEY = "job key"


class StoredValue(NamedTuple):
    """The value of a key, and its expiry in ms.

    `raw` is None if the key is missing or, with `is_other`, not a string.
    """

    raw: bytes | None
    expires_at: int
    is_other: bool = False

    @property
    def record(self) -> ViewRecord | None:
        """Decode the record; None if the key is missing or malformed."""
        try:
            return None if self.raw is None else ViewRecord.decode(self.raw)
        except ValueError:
            return None

    @property
    def pointer(self) -> ViewId | None:
        """The digest that the value of a job's key names; None if it is anything else."""
        found = schema.POINTER.fullmatch(self.raw or b"")
        return ViewId(found[0].decode()) if found else None

    @property
    def is_absent(self) -> bool:
        """Whether the key is missing."""
        return self.raw is None and not self.is_other


class AgentDiff(NamedTuple):
    """The ids of agents by which a record differs from its view.

    The record allows `too_many`, lacks `too_few`, and has another entry for `others`.
    """

    too_many: list[int]
    too_few: list[int]
    others: list[int]


async def read_values(redis: Redis, keys: Sequence[str]) -> list[StoredValue]:
    """Read the keys' values in one round trip to each server; raises `RedisError`."""
    if not keys:
        return []
    results = await redis_batch.execute(
        redis, [(name, key) for key in keys for name in ("GET", "PTTL")]
    )
    return [_stored(raw, left) for raw, left in zip(results[::2], results[1::2], strict=True)]


def _stored(raw: CommandResult, left: CommandResult) -> StoredValue:
    if isinstance(left.value, Exception):
        raise left.value
    expires_at = NEVER if left.value == _NO_EXPIRY else int(left.now) + left.value
    if not isinstance(raw.value, Exception):
        return StoredValue(raw.value, expires_at)
    if isinstance(raw.value, ResponseError) and str(raw.value).startswith("WRONGTYPE"):
        return StoredValue(None, expires_at, is_other=True)
    raise raw.value


def names(pointer: StoredValue, view: View) -> bool:
    """Whether the value of a job's key names the view, and expires with it."""
    expires_alike = abs(view.expires_at - pointer.expires_at) < EXPIRY_TOLERANCE_MS
    return pointer.raw == view.id.encode() and expires_alike


def mismatches(view: View, partition: int, stored: StoredValue) -> list[Mismatch]:
    """Compare the record with the view, which has not expired; return all differences."""
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


def leads_astray(job_key: StoredValue, view: View, partition: int, foreign: ViewRecord) -> bool:
    """Whether a job's key answers wrongly while the view's digest has a `foreign` record.

    It must not lead to another job's answer, nor hold a record from before the job had a digest.
    """
    if job_key.pointer == view.id:
        return foreign.status == 200 and job_of(foreign) != view.job
    record = job_key.record
    return record is not None and record.partition == partition and record.status != 401


def diff_agents(view: View | None, stored: StoredValue) -> AgentDiff:
    """Compare the agents that the record allows with those of the view."""
    theirs = allowed_agents(stored.record)
    ours = _entries(view.status, view.body) if view else {}
    return AgentDiff(
        sorted(theirs.keys() - ours.keys()),
        sorted(ours.keys() - theirs.keys()),
        sorted(number for number in ours.keys() & theirs.keys() if ours[number] != theirs[number]),
    )


def grants_more(view: View | None, stored: StoredValue) -> bool:
    """Whether the record may allow more than the facts; in doubt true.

    It allows less if it only lacks agents and agrees in all else, such as the user's roles.
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
    """Return the readable entries of the agents that a record allows, by id."""
    return {} if record is None else _entries(record.status, record.body)


def job_of(record: ViewRecord) -> int | None:
    """Return the id of the job that a record with status 200 is for; None if unreadable."""
    try:
        return int(msgspec.json.decode(record.body)["job"]["id"])
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, RecursionError):
        return None


def _entries(status: int, body: bytes) -> dict[int, Any]:
    try:
        entries = msgspec.json.decode(body)["allowed_agents"] if status == 200 else []
        return {entry["id"]: entry for entry in entries if isinstance(entry["id"], int)}
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        return {}


def _rest(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "allowed_agents"}
