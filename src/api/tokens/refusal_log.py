"""Log entries about signed job tokens that only a wrong setting or a new key explains."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import structlog

from projector.elapsed import elapsed

log = structlog.get_logger()

INTERVAL_S: Final = 10.0
# Longer than GitLab's values, which the settings bound too; a claim may have 8 KiB.
MAX_TEXT: Final = 300
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class RefusalLog:
    """Logs refused tokens, each kind at most every ten seconds, with their number since."""

    def __init__(self) -> None:
        self._tokens: Counter[str] = Counter()
        self._next_at: dict[str, float] = {}

    def unknown_key(self, kid: str, held: Iterable[str]) -> None:
        """Report a token that names an unknown key: anyone may send one."""
        if tokens := self._due("unknown key"):
            named = kid if _THUMBPRINT.fullmatch(kid) else "(not a thumbprint)"
            log.error("job tokens signed with an unknown key", kid=named, tokens=tokens,
                      held=sorted(held))  # fmt: skip

    def wrong_claim(self, result: str, found: object, expected: str) -> None:
        """Report a token that a configured key has signed, and that is refused all the same."""
        if tokens := self._due(result):
            log.error("job tokens of a configured key refused", reason=result, found=_shown(found),
                      expected=expected, tokens=tokens)  # fmt: skip

    def _due(self, kind: str) -> int:
        """Return how many tokens to report now, or 0."""
        self._tokens[kind] += 1
        now = elapsed()
        if now < self._next_at.get(kind, now):
            return 0
        self._next_at[kind] = now + INTERVAL_S
        return self._tokens.pop(kind)


def _shown(value: object) -> str:
    if value is None:
        return "(none)"
    if not isinstance(value, str):
        return "(not a text)"
    text = value[:MAX_TEXT]
    return text if text.isprintable() else ascii(text)[:MAX_TEXT]
