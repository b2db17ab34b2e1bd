"""Holds what was answered against what could be answered."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tests.faults.expected_answers import ExpectedAnswers, wall_ms
from tests.faults.observer import Lookup

SHOWN: Final = 5


class Verdict(NamedTuple):
    """What is wrong with the answers, a sentence for each."""

    over_grants: list[str]
    false_401s: list[str]
    wrong: list[str]

    def assert_clean(self) -> None:
        """Fail with the first findings of each kind."""
        findings = [
            f"{len(found)} {name}:\n  " + "\n  ".join(found[:SHOWN])
            for name, found in self._asdict().items()
            if found
        ]
        assert not findings, "\n".join(findings)


def check_answers(
    expected: Mapping[str, ExpectedAnswers],
    lookups: Sequence[Lookup],
    answers: Mapping[str, Any],
    bound: float,
) -> Verdict:
    """The verdict on all `lookups`, and on the whole `answers` (by digest) at the end, just now."""
    over_grants = [
        sentence
        for lookup in lookups
        for sentence in expected[lookup.token.root].over_grants(lookup, bound)
    ]
    false_401s = [
        expected[lookup.token.root].describe_false_401(lookup)
        for lookup in lookups
        if lookup.status == 401 and expected[lookup.token.root].is_false_401(lookup)
    ]
    return Verdict(over_grants, false_401s, list(_wrong(expected, answers)))


def _wrong(expected: Mapping[str, ExpectedAnswers], answers: Mapping[str, Any]) -> Iterator[str]:
    now = wall_ms(time.monotonic())
    for root, expectation in expected.items():
        for digest, said in expectation.final(now).items():
            if answers.get(digest) != said:
                job = expectation.lives[digest].start["data"]["id"]
                yield f"job {job} (root {root}): {answers.get(digest)} instead of {said}"
