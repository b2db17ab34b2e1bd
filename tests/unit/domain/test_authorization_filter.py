"""Wildcards, against a slow and obvious matcher, and against patterns that are made to hurt."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from projector.domain import authorization_filter
from projector.domain.authorization_filter import filter_context
from projector.domain.entities import Job
from projector.events.model import JobEnvironment

LONG = 100_000
JOB = Job("0" * 64, 7, 1, 1, "root", ref_protected=False, expires_at=1)
PRODUCTION = Job(
    "0" * 64, 7, 1, 1, "root", ref_protected=True, expires_at=1,
    environment=JobEnvironment("production", "production", "production"),
)  # fmt: skip


def obviously(pattern: str, name: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL))


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
@example("a*a", "a")
@example("*ab*b", "ab")
@example("a*a*a", "aa")
def test_a_star_is_any_run_of_characters_and_nothing_else_is_special(
    pattern: str, name: str
) -> None:
    assert authorization_filter.matches(pattern, name) == obviously(pattern, name)


@given(st.text(".+?[](){}|^$\\\n*a", max_size=8), st.text(".+?[](){}|^$\\\n*a", max_size=8))
def test_what_regular_expressions_make_special_is_not(pattern: str, name: str) -> None:
    assert authorization_filter.matches(pattern, name) == obviously(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*" * LONG, "a" * LONG, True),
        ("*" * LONG + "b", "a" * LONG, False),
        ("*a" * (LONG // 2), "a" * LONG, True),
        ("*a" * (LONG // 2) + "*b", "a" * LONG, False),
        ("*ab" * (LONG // 3), "a" * LONG, False),
        ("a*" * LONG, "a" * (LONG - 1), False),
        ("*" + "a" * (LONG // 2) + "b*", "a" * LONG, False),
    ],
    ids=range(7),
)
def test_patterns_that_are_made_to_hurt_end(pattern: str, name: str, matches: bool) -> None:
    """Were it tried again from each place, these would take hours."""
    assert authorization_filter.matches(pattern, name) is matches


class Counted(str):
    """A name that counts how often a part is searched for in it."""

    searches = 0

    def find(self, *args: Any) -> int:
        self.searches += 1
        return super().find(*args)


def test_each_part_is_searched_for_once() -> None:
    for parts in (10, 1000):
        name = Counted("a" * 5000)
        assert not authorization_filter.matches("*a" * parts + "*b*", name)
        assert name.searches == parts + 1


@pytest.mark.parametrize("patterns", ["production", {"production": 1}, "", {}, False, 7, [["*"]]])
def test_environments_that_are_no_list_of_texts_let_nobody_in(patterns: Any) -> None:
    assert (
        authorization_filter.refusing_filter({"environments": patterns}, filter_context(PRODUCTION))
        == "environments"
    )


def test_one_text_among_others_is_enough() -> None:
    assert (
        authorization_filter.refusing_filter(
            {"environments": [7, None, "prod*"]}, filter_context(PRODUCTION)
        )
        is None
    )


@pytest.mark.parametrize("value", [True, 1, 0, "", "false", "true", [], {}, 0.0])
def test_all_but_false_and_null_ask_for_a_protected_ref(value: Any) -> None:
    configuration = {"protected_branches_only": value}
    assert (
        authorization_filter.refusing_filter(configuration, filter_context(JOB))
        == "protected_branches_only"
    )
    assert authorization_filter.refusing_filter(configuration, filter_context(PRODUCTION)) is None


@pytest.mark.parametrize("configuration", [{}, {"protected_branches_only": False}])
def test_without_filters_every_job_is_let_in(configuration: dict[str, Any]) -> None:
    assert authorization_filter.refusing_filter(configuration, filter_context(JOB)) is None
