"""Groups of dead letters with the same reason, type or source."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from projector.config.settings import Settings
from projector.operators.dead_letters.group_by import GroupBy
from projector.operators.dead_letters.letters import LetterFilter, LetterSummary
from projector.operators.dead_letters.reader import open_dead_letters

# Bounds the memory that hostile letters take, each with a reason of its own.
MAX_GROUPS: Final = 1000
OTHERS: Final = "(others)"
_NUMBER: Final = re.compile(r"\d+")


def common_values(letter: LetterSummary, by: Iterable[GroupBy]) -> tuple[str | None, ...]:
    """Return the values that all letters of the letter's group have.

    Reasons that differ in numbers alone are one group, so each number is a 0.
    """
    return tuple(_common_value(letter, each) for each in by)


def _common_value(letter: LetterSummary, by: GroupBy) -> str | None:
    value: str | None = getattr(letter, by)
    return _NUMBER.sub("0", value) if value and by is GroupBy.REASON else value


class LetterGroup(Struct):
    """Letters with one value; None: it cannot be read. `latest` is the id of the latest letter.

    A reason as `value` is the latest letter's.
    """

    value: str | None
    letters: int
    first: str | None
    last: str | None
    latest: str


class LetterGroups:
    """The groups of the letters that were added, oldest letter first."""

    def __init__(self, by: GroupBy) -> None:
        self._by = by
        self._groups: dict[str | None, LetterGroup] = {}

    def add(self, letter: LetterSummary) -> None:
        """Add the letter to its group."""
        value: str | None = getattr(letter, self._by)
        (key,) = common_values(letter, (self._by,))
        if key not in self._groups and len(self._groups) >= MAX_GROUPS:
            key = value = OTHERS
        found = self._groups.setdefault(key, LetterGroup(value, 0, letter.time, None, letter.id))
        found.value, found.last, found.latest = value, letter.time, letter.id
        found.letters += 1

    def largest_first(self) -> list[LetterGroup]:
        """Return the groups, that with the most letters first."""
        return sorted(self._groups.values(), key=lambda group: -group.letters)


async def read_groups(
    settings: Settings, by: GroupBy, selected: LetterFilter, places: Mapping[str, str]
) -> list[LetterGroup]:
    """Read the whole topic and group the letters that match; `places` are those of replays.

    Raises `KafkaError`, and the errors of `check_topics`.
    """
    groups = LetterGroups(by)
    async with open_dead_letters(settings) as reader:
        async for letter in reader.read():
            summary = letter.summary(places)
            if selected.matches(summary):
                groups.add(summary)
    return groups.largest_first()
