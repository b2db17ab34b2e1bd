"""The checker: compares the recorded answers with the expected ones."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tests.faults.expected_answers import ExpectedAnswers, wall_ms
from tests.faults.observer import Lookup

SHOWN: Final = 5


class Verdict(NamedTuple):
    """The wrong answers, one sentence each."""

    over_grants: list[str]
    false_401s: list[str]
    wrong: list[str]
    short: list[str]

    def assert_clean(self) -> None:
        """Fail with the first wrong answers of each kind."""
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
    """Check all `lookups`, and the final `answers` by digest, which must be right now."""
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
    short = [
        sentence
        for lookup in lookups
        for sentence in expected[lookup.token.root].short_answers(lookup)
    ]
    return Verdict(over_grants, false_401s, list(_wrong(expected, answers)), short)


def _wrong(expected: Mapping[str, ExpectedAnswers], answers: Mapping[str, Any]) -> Iterator[str]:
    now = wall_ms(time.monotonic())
    for root, answers_of_root in expected.items():
        for digest, right in answers_of_root.final(now).items():
            if answers.get(digest) != right:
                job = answers_of_root.lives[digest].start["data"]["id"]
                yield f"job {job} (root {root}): {answers.get(digest)} instead of {right}"
