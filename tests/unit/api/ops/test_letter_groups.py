"""Dead letters that are alike, as one group."""

from msgspec.structs import replace

from api.ops.letter_groups import MAX_LISTED, group_letters
from projector.operators.dead_letters.letters import LetterSummary

LETTER = LetterSummary(
    id="0:9", time="2026-11-29T11:49:10Z", topic="membership", reason="user 7 is missing",
    partition=3, offset=17, timestamp=0, type="member.set", source="/acme/gitlab", event_id="e-1",
)  # fmt: skip


def test_reasons_that_differ_in_numbers_alone_are_one_group() -> None:
    older = replace(LETTER, id="0:8", reason="user 41 is missing", time="2026-11-29T11:40:00Z")
    (group,) = group_letters([LETTER, older])
    assert (group.reason, group.count, group.latest) == (LETTER.reason, 2, LETTER.time)
    assert [letter.id for letter in group.letters] == ["0:9", "0:8"]


def test_another_type_source_or_reason_is_another_group() -> None:
    others = [
        replace(LETTER, type="member.removed"),
        replace(LETTER, source=None),
        replace(LETTER, reason="not JSON"),
    ]
    assert len(group_letters([LETTER, *others])) == 4


def test_what_was_replayed_is_counted_and_comes_last() -> None:
    replayed = replace(LETTER, type="group.set", replayed="membership 3:40")
    half = [replace(LETTER, replayed="membership 3:41"), LETTER]
    groups = group_letters([replayed, *half])
    assert [(g.type, g.replayed, g.count) for g in groups] == [
        ("member.set", 1, 2),
        ("group.set", 1, 1),
    ]


def test_of_a_large_group_the_latest_are_listed() -> None:
    (group,) = group_letters([replace(LETTER, id=f"0:{n}") for n in range(100, 0, -1)])
    assert group.count == 100
    assert [letter.id for letter in group.letters][::19] == ["0:100", "0:81"]
    assert len(group.letters) == MAX_LISTED
