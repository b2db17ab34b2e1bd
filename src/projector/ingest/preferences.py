"""The request header `Prefer` (RFC 7240): `wait` and `handling`."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

# Seconds. A longer wait is cut: it holds one of the token's requests.
MAX_WAIT_S: Final = 30
_WAIT: Final = re.compile(r"[0-9]{1,6}")


class Preferences(NamedTuple):
    """The time to wait for the views, and whether events that apply in part are refused."""

    wait_s: int | None
    strict: bool


def parse_preferences(headers: Iterable[tuple[bytes, bytes]]) -> Preferences:
    """Parse the headers; of a preference that is there twice the first counts."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name == b"prefer":
            for preference in value.decode("latin-1").split(","):
                key, _, text = preference.partition(";")[0].partition("=")
                found.setdefault(key.strip().lower(), text.strip().strip('"').lower())
    wait = found.get("wait", "")
    wait_s = min(int(wait), MAX_WAIT_S) if _WAIT.fullmatch(wait) else 0
    return Preferences(wait_s or None, found.get("handling") == "strict")
