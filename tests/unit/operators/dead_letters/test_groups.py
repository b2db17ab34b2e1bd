"""Groups of dead letters."""

import pytest

from projector.operators.dead_letters import groups
from projector.operators.dead_letters.group_by import GroupBy
from projector.operators.dead_letters.groups import LetterGroup, LetterGroups
from projector.operators.dead_letters.letters import LetterSummary


def letter(number: int, reason: str, source: str | None = None) -> LetterSummary:
    return LetterSummary(
        f"0:{number}", f"t{number}", "membership", reason, 1, 7, 5, "group.set", source
    )


def grouped(by: GroupBy, *letters: LetterSummary) -> list[LetterGroup]:
    groups = LetterGroups(by)
    for each in letters:
        groups.add(each)
    return groups.largest_first()


LETTERS = (
    letter(1, "not JSON", "/a"),
    letter(2, "partitionkey 3 belongs in partition 15", "/b"),
    letter(3, "partitionkey 44 belongs in partition 2", "/b"),
)


def test_reasons_that_differ_in_numbers_alone_are_one_group_and_the_largest_is_first() -> None:
    assert grouped(GroupBy.REASON, *LETTERS) == [
        LetterGroup("partitionkey 44 belongs in partition 2", 2, "t2", "t3", "0:3"),
        LetterGroup("not JSON", 1, "t1", "t1", "0:1"),
    ]


def test_letters_are_grouped_by_type_and_by_source_too() -> None:
    assert [(g.value, g.letters) for g in grouped(GroupBy.TYPE, *LETTERS)] == [("group.set", 3)]
    sources = grouped(GroupBy.SOURCE, *LETTERS, letter(4, "not JSON"))
    assert [(g.value, g.letters) for g in sources] == [("/b", 2), ("/a", 1), (None, 1)]


def test_groups_beyond_the_bound_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_GROUPS", 2)
    letters = [letter(n, "r" * n) for n in range(1, 6)]
    found = grouped(GroupBy.REASON, *letters)
    assert [(g.value, g.letters) for g in found] == [("(others)", 3), ("r", 1), ("rr", 1)]
