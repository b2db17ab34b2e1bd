"""The source that a partition's stamp waits for: the field `silent` of the partition's hash.

Best effort, like an activity: a malformed field counts as none, and so does an old one, of an owner
that is gone. No status code depends on it.
"""

import re
from typing import Final, NamedTuple

from projector.events.model import SOURCE_PATTERN

_NAME: Final = SOURCE_PATTERN.removeprefix("^").removesuffix(r"\Z")
# Longer numbers are damage, and may not fit into a float.
_FIELD: Final = re.compile(rf"({_NAME}) (\d{{1,15}}) (\d{{1,15}})".encode())
# An owner writes the field some four times a second.
NOTED_MS: Final = 2000
# The duration of a silence that is longer than the owner has the partition.
NEVER_VOUCHED: Final = "since before the partition's owner began"


class SilentSource(NamedTuple):
    """A source, and the Redis TIME in ms up to which it vouched for the partition; 0: never."""

    name: str
    vouched_ms: int

    def seconds(self, now_ms: float) -> float | None:
        """Return for how long it has been silent at this Redis TIME; None if it never vouched."""
        return max(0.0, now_ms - self.vouched_ms) / 1000 if self.vouched_ms else None


def decode_silent(raw: bytes | None, now_ms: float) -> SilentSource | None:
    """Decode the field; None if it is missing or malformed, or was not written just now.

    `now_ms` is TIME of the server that has the field. One from the future follows a failover.
    """
    found = _FIELD.fullmatch(raw or b"")
    if found is None or abs(now_ms - int(found[3])) > NOTED_MS:
        return None
    return SilentSource(found[1].decode(), int(found[2]))
