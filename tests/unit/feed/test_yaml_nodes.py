"""YAML as JSON values: what is read, and what is refused by its line."""

from typing import Any

import pytest

from projector.feed.yaml_nodes import MAX_VALUES
from tests.unit.feed.config_files import entry, faults, shared


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
        ("~", None),
        ("true", True),
        ("12", 12),
        ("-0.5", -0.5),
        ('"yes"', "yes"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("!!str 010", "010"),
        ("{a: [1, {}]}", {"a": [1, {}]}),
    ],
)
def test_what_yaml_says_becomes_json(text: str, value: Any) -> None:
    assert entry(f"key: {text}")["key"] == value


@pytest.mark.parametrize(
    "text",
    [
        "yes", "Off", "True", "010", "0x1F", "1_000", "1:30", "+1", ".inf", ".nan", "1.",
        "9" * 5000, "!!binary aGk=", "!custom x",
    ],
)  # fmt: skip
def test_what_readers_of_yaml_differ_about_is_refused(text: str) -> None:
    [(line, reason)] = faults(f"ci_access:\n  projects:\n    - id: a\n      key: {text}\n")
    assert line == 4
    assert "put it in quotes" in reason
    assert len(reason) < 200


@pytest.mark.parametrize("tag", ["!!set", "!!omap", "!!python/object:os.system", "!custom"])
@pytest.mark.parametrize("value", ["{}", "[]"])
def test_nothing_but_plain_lists_and_mappings_is_read(tag: str, value: str) -> None:
    [(line, _)] = faults(f"ci_access:\n  projects:\n    - id: a\n      key: {tag} {value}\n")
    assert line == 4


@pytest.mark.parametrize("name", ["1", "on", "~", "[a]", "2.5"])
def test_names_are_texts(name: str) -> None:
    [(line, reason)] = faults(f"ci_access:\n  projects:\n    - id: a\n      ? {name}\n      : 1")
    assert line == 4
    assert "a name must be text" in reason


def test_anchors_and_merges_are_followed() -> None:
    source = """\
defaults: &defaults {default_namespace: ci, environments: [production]}
more: &more {default_namespace: other, access_as: {agent: {}}}
ci_access:
  groups:
    - {<<: [*defaults, *more], id: acme, environments: []}
"""
    assert shared(source).groups == [
        {
            "default_namespace": "ci",
            "access_as": {"agent": {}},
            "id": "acme",
            "environments": [],
        }
    ]


@pytest.mark.parametrize(
    ("first", "twice"), [("[0, 0]", "[*{0}, *{0}]"), ("{{x: 1}}", "{{<<: [*{0}, *{0}]}}")]
)
def test_a_bomb_of_aliases_is_refused(first: str, twice: str) -> None:
    """Each line is twice the one before: 2^20 of the first."""
    lines = [f"a0: &a0 {first.format()}"]
    lines += [f"a{n}: &a{n} {twice.format(f'a{n - 1}')}" for n in range(1, 21)]
    lines += ["ci_access: {projects: [{id: a, x: *a20}]}"]
    assert f"more than {MAX_VALUES} values" in faults("\n".join(lines))[0][1]


@pytest.mark.parametrize(
    "circle", ["&a [*a]", "&a {x: *a}", "&a {<<: *a}", "[" * 70 + "]" * 70], ids=str
)
def test_circles_and_deep_nests_are_refused(circle: str) -> None:
    assert "within itself" in faults(f"ci_access: {{projects: [{{id: a, x: {circle}}}]}}")[0][1]


@pytest.mark.parametrize(
    "source",
    [
        'ci_access:\n  projects:\n    - id: "\\ud800"',
        'ci_access:\n  projects:\n    - {id: a, x: ["\\ud83d\\ude00"]}',
        'ci_access:\n  projects:\n    - {id: a, "\\udfff": 1}',
        'a: 1\nb: 2\n"\\ud800": 1',
    ],
)
def test_half_a_character_is_a_fault(source: str) -> None:
    """YAML can escape it, JSON in UTF-8 cannot hold it."""
    [(line, reason)] = faults(source)
    assert line == 3
    assert "not characters" in reason
