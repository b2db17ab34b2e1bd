"""The sentence about silent sources."""

import math

import pytest
from redis.exceptions import ResponseError

from api.silence import Silence, describe_silences, find_silences
from projector.clients.redis_cluster import CommandResult

NEVER = Silence("hr", -math.inf)


def answer(silent: bytes | None, now: float = 100_000) -> CommandResult:
    return CommandResult([b"99000", b"7", silent], now)


@pytest.mark.parametrize(
    ("silences", "expected"),
    [
        ([], ""),
        ([Silence("gitlab", 88.4)], "source gitlab has been silent for 12 s"),
        ([NEVER], "source hr has been silent since before the partition's owner began"),
        # The same source in two partitions: the longer silence.
        (
            [Silence("gitlab", 95), Silence("gitlab", 40)],
            "source gitlab has been silent for 60 s",
        ),
        (
            [Silence("gitlab", 88), NEVER],
            "source hr has been silent since before the partition's owner began, "
            "source gitlab has been silent for 12 s",
        ),
        (
            [Silence(f"s{n}", n) for n in range(5)],
            "source s0 has been silent for 100 s, source s1 has been silent for 99 s, "
            "source s2 has been silent for 98 s, and 2 more",
        ),
    ],
)
def test_the_longest_silences_are_named(silences: list[Silence], expected: str) -> None:
    assert describe_silences(silences, now=100.4 if len(silences) == 1 else 100) == expected


def test_each_silence_is_measured_by_the_clock_of_its_own_server() -> None:
    answers = [
        answer(b"gitlab 88000 99900"),
        answer(b"gitlab 88000 90000", now=90_000),
        answer(b"hr 0 98000"),
        answer(b"hr 0 97999"),
    ]
    assert find_silences(50.0, answers) == {
        0: Silence("gitlab", 38.0), 1: Silence("gitlab", 48.0), 2: NEVER,
    }  # fmt: skip


def test_partitions_that_wait_for_no_source_or_cannot_be_read_are_left_out() -> None:
    away = CommandResult(ResponseError("LOADING"), 100_000)
    assert find_silences(50.0, [away, answer(None), answer(b"gitlab x"), answer(b"gitlab 1")]) == {}
