"""Dead letters grouped by the type and the source of their event, and the reason."""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from projector.operators.dead_letter_reader import LetterSummary

# Letters of one group; `projector dead-letters list` prints all.
MAX_LISTED: Final = 20
_NUMBER: Final = re.compile(r"\d+")


class LetterGroup(Struct, frozen=True):
    """Letters alike: how many, how many of them were replayed, and the latest, newest first.

    Their reasons differ in numbers alone; `reason` is the latest.
    """

    type: str | None
    source: str | None
    reason: str | None
    count: int
    replayed: int
    latest: str | None
    letters: list[LetterSummary]


def group_letters(letters: Iterable[LetterSummary]) -> list[LetterGroup]:
    """Group letters, given newest first; groups that were replayed completely come last."""
    found: dict[tuple[str | None, ...], list[LetterSummary]] = {}
    for letter in letters:
        reason = letter.reason and _NUMBER.sub("0", letter.reason)
        found.setdefault((letter.type, letter.source, reason), []).append(letter)
    groups = [_group(alike) for alike in found.values()]
    return sorted(groups, key=lambda group: group.replayed == group.count)


def _group(letters: list[LetterSummary]) -> LetterGroup:
    first = letters[0]
    return LetterGroup(
        first.type,
        first.source,
        first.reason,
        len(letters),
        sum(letter.replayed is not None for letter in letters),
        first.time,
        letters[:MAX_LISTED],
    )
