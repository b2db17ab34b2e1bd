"""Reads of one view's record: by the digest of a token, or by that and by its job."""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from api.read_batcher import Reads, Value
from projector.elapsed import elapsed
from projector.store import schema
from projector.store.schema import ViewRecord

Stored = bytes | Exception | None


class Found(NamedTuple):
    """The record of a view, or None, and the servers that it depends on; its own is the last.

    `at_job`: the job's key held the record. `pointer`: the job's key held this digest, whose record
    it is; `read_at` is then when the record was there, in seconds of `elapsed`. `overlay` was read
    with the record.
    """

    record: ViewRecord | None
    servers: tuple[str, ...]
    at_job: bool = False
    pointer: str = ""
    read_at: float = -math.inf
    overlay: Value = None

    @property
    def final(self) -> ViewRecord | None:
        """Return the record if it answers without a proof.

        A 401 behind a pointer needs one. A later start with another digest may have ended this one,
        and the job's key may name the new one by now.
        """
        record = self.record
        if record is None or record.is_provisional or (record.status == 401 and self.pointer):
            return None
        return record

    def since(self, former: "Found") -> "Found":
        """Return this with the time of `former`, if that is the same record."""
        is_same = (self.pointer, self.record) == (former.pointer, former.record)
        return self._replace(read_at=former.read_at) if is_same else self


OnFound = Callable[[Found | Exception], None]


T = TypeVar("T")


def raised(result: T | Exception) -> T:
    """Return the result, or raise it if it is an error."""
    if isinstance(result, Exception):
        raise result
    return result


def decode_record(stored: Stored) -> ViewRecord | None:
    """Return the record, or None without one; raises the error of the read, or `ValueError`."""
    if isinstance(stored, Exception):
        raise stored
    return None if stored is None else ViewRecord.decode(stored)


def leads_on(stored: Stored) -> bool:
    """Whether a job's key is missing or holds the digest of its token, not a record."""
    if isinstance(stored, bytes):
        return schema.POINTER.fullmatch(stored) is not None
    return stored is None


class JobRead:
    """One read of the view of a signed token.

    The record under the token's digest decides. Without one it is that under the job's key, or that
    of the digest which the job's key holds. Both keys are in one round trip. Calls `on_found` once.
    """

    def __init__(self, reads: Reads, key: str, job_key: str, on_found: OnFound) -> None:
        self._reads = reads
        self._key = key
        self._job_key = job_key
        self._on_found = on_found
        self._token: tuple[Stored, str, Value] | None = None
        self._job: tuple[Stored, str, Value] | None = None

    def start(self) -> None:
        """Read both keys."""
        self._reads.ask(self._key, self._note_token)
        self._reads.ask(self._job_key, self._note_job)

    def _note_token(self, stored: Stored, server: str, overlay: Value) -> None:
        self._token = stored, server, overlay
        self._finish(self._resolve)

    def _note_job(self, stored: Stored, server: str, overlay: Value) -> None:
        self._job = stored, server, overlay
        self._finish(self._resolve)

    def _resolve(self) -> Found | None:
        """Return what both keys hold; None if the answer is still to come."""
        if self._token is None or self._job is None:
            return None
        stored, server, overlay = self._token
        at_job, server_of_job, overlay_of_job = self._job
        record = decode_record(stored)
        if record is not None:
            return Found(record, (server,), overlay=overlay)
        if at_job is None:
            return Found(None, (server, server_of_job))
        if isinstance(at_job, Exception) or not leads_on(at_job):
            record = decode_record(at_job)
            return Found(record, (server_of_job,), at_job=True, overlay=overlay_of_job)
        pointer = at_job.decode()
        on_target = partial(self._note_target, pointer, (server, server_of_job))
        self._reads.ask(schema.TOKENS + pointer, on_target)
        return None

    def _note_target(
        self, pointer: str, servers: tuple[str, str], stored: Stored, server: str, overlay: Value
    ) -> None:
        self._finish(partial(_behind_pointer, pointer, servers, stored, server, overlay))

    def _finish(self, result: Callable[[], Found | None]) -> None:
        found: Found | Exception | None
        try:
            found = result()
        except Exception as error:  # always report: a client is waiting
            found = error
        if found is not None:
            self._on_found(found)


def _behind_pointer(
    pointer: str, servers: tuple[str, str], stored: Stored, server: str, overlay: Value
) -> Found:
    """Return the record behind a pointer; it depends on the servers of all three keys.

    That of the token's own key may have lost the tombstone of its digest.
    """
    record = decode_record(stored)
    if record is None:
        return Found(None, (*servers, server))
    return Found(record, (*servers, server), pointer=pointer, read_at=elapsed(), overlay=overlay)


async def read_again(reads: Reads, key: str, job_key: str) -> Found:
    """Return the record under the token's key and, unless it is "", under the job's.

    Raises the error of a read, or `ValueError`.
    """
    if not job_key:
        stored, server, overlay = await reads.get(key)
        return Found(decode_record(stored), (server,), overlay=overlay)
    result: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
    JobRead(reads, key, job_key, partial(_settle, result)).start()
    return await result


def _settle(result: asyncio.Future[Found], found: Found | Exception) -> None:
    if result.done():
        return
    if isinstance(found, Exception):
        result.set_exception(found)
    else:
        result.set_result(found)
