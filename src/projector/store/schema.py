"""The Redis contract: every key, and the record that answers lookups.

The API and the workers share nothing else. Names and widths are public: operators and programs in
other languages read them.
"""

import re
from typing import Final, NamedTuple, Self

from projector.domain.views import ViewId, is_digest

PREFIX: Final = "allowed-agents"
PARTITIONS_KEY: Final = f"{PREFIX}:partitions"
# The changes that hold back records until these are written again.
OVERLAY: Final = f"{PREFIX}:overlay"
REPLAYED: Final = f"{PREFIX}:replayed"
# The beginnings of the keys of tokens and jobs.
TOKENS: Final = f"{PREFIX}:token:"
JOBS: Final = f"{PREFIX}:job:"
# The value of a job's key if the job has a digest.
POINTER: Final = re.compile(rb"[0-9a-f]{64}")

HEADER_BYTES: Final = 35
_HEADER: Final = re.compile(rb"(200|401|403|503) (\d{4}) ([0-9a-f]{12}) ([0-9a-f]{12}) ")


def record_key(id_: ViewId) -> str:
    """Return the key of the view's record: that of a digest, or that of a job."""
    return (TOKENS if is_digest(id_) else JOBS) + id_


def job_key(job: int) -> str:
    """Return the key of a job: its record, or the digest that names its record."""
    return f"{JOBS}{job}"


def partition_key(partition: int) -> str:
    """Return the key of the partition's state; in a cluster `facts_key` has the same slot."""
    return f"{PREFIX}:partition:{{{partition}}}"


def facts_key(partition: int) -> str:
    """Return the key of the partition's checkpoint: one field per fact."""
    return f"{PREFIX}:facts:{{{partition}}}"


def activity_key(partition: int) -> str:
    """Return the key of the owner's activity: for operators, no answer depends on it."""
    return f"{PREFIX}:activity:{{{partition}}}"


class Version(NamedTuple):
    """The epoch and revision of a record. As text of fixed width, newer is greater."""

    epoch: int
    revision: int

    def __str__(self) -> str:
        return f"{self.epoch:012x} {self.revision:012x}"


class ViewRecord(NamedTuple):
    """The value of a record's key: `200 0003 01a0c5e2f3b1 00000000a3f1 ` and the HTTP body."""

    status: int
    partition: int
    version: Version
    body: bytes

    @property
    def is_provisional(self) -> bool:
        """Whether this is a 401 of a removed project, which may be set again."""
        return self.status == 401 and bool(self.body)

    def encode(self) -> bytes:
        """Encode the record for Redis."""
        return f"{self.status:03} {self.partition:04} {self.version} ".encode() + self.body

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Decode a stored record; raises `ValueError`."""
        header = _HEADER.match(raw)
        if header is None:
            raise ValueError("not a view record")
        status, partition, epoch, revision = header.groups()
        version = Version(int(epoch, 16), int(revision, 16))
        return cls(int(status), int(partition), version, raw[header.end() :])
