"""Groups of dead letters as the page shows them: by type, source and reason."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from projector.operators.dead_letters.group_by import GroupBy
from projector.operators.dead_letters.groups import common_values
from projector.operators.dead_letters.letters import LetterSummary

# Letters of one group; `projector dead-letters list` prints all.
MAX_LISTED: Final = 20
BY: Final = (GroupBy.TYPE, GroupBy.SOURCE, GroupBy.REASON)


class ShownGroup(Struct, frozen=True):
    """Letters alike: how many, how many of them were replayed, and the latest, newest first.

    `reason` is the latest letter's.
    """

    type: str | None
    source: str | None
    reason: str | None
    count: int
    replayed: int
    latest: str | None
    letters: list[LetterSummary]


def group_letters(letters: Iterable[LetterSummary]) -> list[ShownGroup]:
    """Group letters, given newest first; groups that were replayed completely come last."""
    found: dict[tuple[str | None, ...], list[LetterSummary]] = {}
    for letter in letters:
        found.setdefault(common_values(letter, BY), []).append(letter)
    groups = [_shown(alike) for alike in found.values()]
    return sorted(groups, key=lambda group: group.replayed == group.count)


def _shown(letters: list[LetterSummary]) -> ShownGroup:
    first = letters[0]
    return ShownGroup(
        first.type,
        first.source,
        first.reason,
        len(letters),
        sum(letter.replayed is not None for letter in letters),
        first.time,
        letters[:MAX_LISTED],
    )
