"""Marks of replays, and which of them are of letters that the topic still has."""

import fakeredis
import pytest

from projector.store import replay_marks, schema
from projector.store.replay_marks import FirstLetter, is_present, mark_of, remove_marks

FIRST = {0: FirstLetter(10, 1_000_000), 1: FirstLetter(0, 1_000_000)}


@pytest.mark.parametrize(
    ("mark", "present"),
    [
        (mark_of(0, 10, 1_000_000), True),
        (mark_of(0, 11, 999_000), True),  # another worker's clock
        (mark_of(0, 9, 1_000_001), False),  # deleted since
        (mark_of(1, 3, 500_000), False),  # of a topic before this one
        (mark_of(2, 3, 1_000_001), False),  # a partition without a letter
        ("no mark", False),
    ],
)
def test_a_mark_counts_while_the_topic_has_its_letter(mark: str, present: bool) -> None:
    assert is_present(mark, FIRST) is present


async def test_marks_of_letters_that_are_gone_are_removed() -> None:
    redis = fakeredis.FakeAsyncRedis()
    kept, gone = mark_of(0, 10, 1_000_000), mark_of(0, 9, 1_000_000)
    await replay_marks.write_marks(redis, {kept: "membership 3:40", gone: "membership 3:41"})
    await remove_marks(redis, FIRST)
    assert await redis.hkeys(schema.REPLAYED) == [kept.encode()]
    await remove_marks(redis, FIRST)
    assert await redis.hlen(schema.REPLAYED) == 1
