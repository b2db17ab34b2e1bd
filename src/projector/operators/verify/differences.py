"""Differences between stored views and those that facts justify: their kinds, and their doubt."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import NamedTuple

from projector.domain.decision import ViewRules
from projector.domain.projection import compute_view
from projector.domain.views import View, ViewId, is_digest
from projector.operators.snapshot import Snapshot
from projector.store import view_diff
from projector.store.schema import Version
from projector.store.view_diff import EXPIRY_TOLERANCE_MS, AgentDiff, Mismatch, StoredValue


class Difference(NamedTuple):
    """A view whose keys in Redis differ from the facts.

    `view` is None if no fact names it. `stored` and `job_key` are the values in Redis; `job_key` is
    there only if it should hold the view's digest. If the job's key holds a digest that it should
    not hold, `pointed` is the record of that. `partition` is None if no facts name the view, and
    its key holds no record.
    """

    partition: int | None
    id: ViewId
    mismatches: tuple[Mismatch, ...]
    view: View | None
    stored: StoredValue
    job_key: StoredValue | None
    version: Version
    now: int
    pointed: StoredValue | None = None

    @property
    def grants_more(self) -> bool:
        """Whether lookups may allow more than the facts do, by the token or by the job's id."""
        granting = {Mismatch.STATUS, Mismatch.BODY, Mismatch.EXPIRY, Mismatch.ORPHAN}
        compared = [] if granting.isdisjoint(self.mismatches) else [self.stored]
        if Mismatch.JOB_KEY in self.mismatches:
            compared += [value for value in (self.job_key, self.pointed) if value]
        return any(view_diff.grants_more(self.view, value) for value in compared)

    @property
    def job(self) -> int | None:
        """The id of the job; None for a digest that no fact names."""
        if self.view:
            return self.view.job
        return None if is_digest(self.id) else int(self.id)

    @property
    def agents(self) -> AgentDiff:
        """The agents by which lookups differ from the view."""
        misplaced = self.pointed or self.job_key
        if self.mismatches == (Mismatch.JOB_KEY,) and misplaced and misplaced.record:
            return view_diff.diff_agents(self.view, misplaced)
        return view_diff.diff_agents(self.view, self.stored)


def misplaced_digest(difference: Difference) -> ViewId | None:
    """Return the digest that the job's key holds, if it should hold something else."""
    if Mismatch.JOB_KEY not in difference.mismatches:
        return None
    return (difference.job_key or difference.stored).pointer


def unclaimed_value(id_: ViewId, stored: StoredValue) -> Difference | None:
    """Return the difference of a value that no facts name; None for a record, or if missing."""
    if stored.is_absent or stored.record is not None:
        return None
    has_pointer = not is_digest(id_) and stored.pointer
    what = Mismatch.JOB_KEY if has_pointer else Mismatch.UNREADABLE
    return Difference(None, id_, (what,), None, stored, None, Version(0, 0), 0)


def is_harmless(difference: Difference) -> bool:
    """Whether an unclaimed digest leads to no record of another job.

    A job may have started since the facts were read.
    """
    if difference.pointed is None:
        return False
    record = difference.pointed.record
    if record is None or record.status != HTTPStatus.OK:
        return True
    return view_diff.job_of(record) == difference.job


def expected_view(look: Snapshot, id_: ViewId, rules: ViewRules) -> View | None:
    """Compute the view of the facts; None if no fact names it."""
    has_job = look.facts.job_of_view(id_) is not None
    return compute_view(look.facts, id_, rules, look.now) if has_job else None


def find_mismatches(
    look: Snapshot, view: View | None, stored: StoredValue, job_key: StoredValue | None
) -> Iterator[Mismatch]:
    """Compare the view's record, and the digest under its job's id, with the view."""
    if view is None:
        if _is_live(stored, look.partition):
            yield Mismatch.ORPHAN
    elif view.expires_at > look.now + EXPIRY_TOLERANCE_MS:
        if not is_digest(view.id) and stored.pointer:
            yield Mismatch.JOB_KEY
            return
        yield from view_diff.mismatches(view, look.partition, stored)
        if job_key and _is_misplaced(job_key, view, stored, look.partition):
            yield Mismatch.JOB_KEY
    elif view.expires_at < look.now - EXPIRY_TOLERANCE_MS:
        if _is_live(stored, look.partition):
            yield Mismatch.EXPIRY
        if job_key and _is_live(job_key, look.partition):
            yield Mismatch.JOB_KEY


def _is_misplaced(job_key: StoredValue, view: View, stored: StoredValue, partition: int) -> bool:
    """Whether a job's key holds something else than the digest, or leads astray."""
    record = stored.record
    if record is None or record.partition == partition:
        return not view_diff.names(job_key, view)
    return view_diff.leads_astray(job_key, view, partition, record)


def _is_live(stored: StoredValue, partition: int) -> bool:
    record = stored.record
    return record is not None and record.partition == partition and record.status != 401


def is_in_doubt(difference: Difference, look: Snapshot) -> bool:
    """Whether a record may be newer than the facts, or held back until these are complete."""
    if difference.stored.is_absent and _started_since_stamp(look, difference.id):
        return True
    values = (difference.stored, difference.job_key, difference.pointed)
    records = [value.record for value in values if value and value.record]
    newer = any(
        record.partition == look.partition and record.version > look.state.version
        for record in records
    )
    return newer or difference.id in look.in_doubt


def _started_since_stamp(look: Snapshot, id_: ViewId) -> bool:
    """Whether the view's job is newer than the stamp: its owner may hold its first view back."""
    key = look.facts.job_of_view(id_)
    fact = look.facts.get(key) if key else None
    return fact is not None and (look.state.stamp or 0) < fact.timestamp <= look.now
