"""The source that a partition's stamp waits for: the field `silent` of the partition's hash.

Best effort, like an activity: a malformed field counts as none. No status code depends on it.
"""

import re
from typing import Final, NamedTuple

from projector.events.model import SOURCE_PATTERN

_NAME: Final = SOURCE_PATTERN.removeprefix("^").removesuffix(r"\Z")
# Longer numbers are damage, and may not fit into a float.
_FIELD: Final = re.compile(rf"({_NAME}) (\d{{1,15}})".encode())


class SilentSource(NamedTuple):
    """A source, and the Redis TIME in ms up to which it vouched for the partition; 0: never."""

    name: str
    vouched_ms: int

    def seconds(self, now_ms: float) -> float | None:
        """Return for how long it has been silent at this Redis TIME; None if it never vouched."""
        return max(0.0, now_ms - self.vouched_ms) / 1000 if self.vouched_ms else None


def decode_silent(raw: bytes | None) -> SilentSource | None:
    """Decode the field; None if it is missing or malformed."""
    found = _FIELD.fullmatch(raw or b"")
    return SilentSource(found[1].decode(), int(found[2])) if found else None
