"""The Redis contract: every key, and the record that answers one token's lookups.

All that the read side knows of the write side is this. Names and widths are public: operators and
other languages read them.
"""

import re
from typing import Final, NamedTuple, Self

PREFIX: Final = "allowed-agents"
PARTITIONS_KEY: Final = f"{PREFIX}:partitions"

HEADER_BYTES: Final = 35
_HEADER: Final = re.compile(rb"(200|401|403|503) (\d{4}) ([0-9a-f]{12}) ([0-9a-f]{12}) ")


def token_record_key(digest: str) -> str:
    """The record of the token with this SHA-256 (lower-case hex)."""
    return f"{PREFIX}:token:{digest}"


def job_token_key(job: int) -> str:
    """The digest of the job's token."""
    return f"{PREFIX}:job:{job}"


def partition_key(partition: int) -> str:
    """The partition's claim, revision, offsets and stamp. Shares its slot with `facts_key`."""
    return f"{PREFIX}:partition:{{{partition}}}"


def facts_key(partition: int) -> str:
    """The partition's checkpoint: one field per thing."""
    return f"{PREFIX}:facts:{{{partition}}}"


def activity_key(partition: int) -> str:
    """What the partition's owner did in the last minutes: for people, no answer depends on it."""
    return f"{PREFIX}:activity:{{{partition}}}"


class Version(NamedTuple):
    """How new a record is. Text of fixed width, so that newer compares as greater."""

    epoch: int
    revision: int

    def __str__(self) -> str:
        return f"{self.epoch:012x} {self.revision:012x}"


class ViewRecord(NamedTuple):
    """What stands under a token: `200 0003 01a0c5e2f3b1 00000000a3f1 ` and the body to send."""

    status: int
    partition: int
    version: Version
    body: bytes

    @property
    def is_provisional(self) -> bool:
        """Whether a 401 may end: its project was removed and may be set again."""
        return self.status == 401 and bool(self.body)

    def encode(self) -> bytes:
        """The stored bytes."""
        return f"{self.status:03} {self.partition:04} {self.version} ".encode() + self.body

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read the stored bytes; ValueError where they are no record."""
        header = _HEADER.match(raw)
        if header is None:
            raise ValueError("not a view record")
        status, partition, epoch, revision = header.groups()
        version = Version(int(epoch, 16), int(revision, 16))
        return cls(int(status), int(partition), version, raw[header.end() :])
