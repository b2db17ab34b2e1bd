"""The Redis contract: every key, and the record that answers one token's lookups.

The API and the workers share nothing else. Names and widths are public: operators and programs in
other languages read them.
"""

import re
from typing import Final, NamedTuple, Self

PREFIX: Final = "allowed-agents"
PARTITIONS_KEY: Final = f"{PREFIX}:partitions"

HEADER_BYTES: Final = 35
_HEADER: Final = re.compile(rb"(200|401|403|503) (\d{4}) ([0-9a-f]{12}) ([0-9a-f]{12}) ")


def token_record_key(digest: str) -> str:
    """Return the key of the record of the token with this SHA-256 (lower-case hex)."""
    return f"{PREFIX}:token:{digest}"


def job_token_key(job: int) -> str:
    """Return the key of the digest of the job's token."""
    return f"{PREFIX}:job:{job}"


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
    """The value of a token's key: `200 0003 01a0c5e2f3b1 00000000a3f1 ` and the HTTP body."""

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
