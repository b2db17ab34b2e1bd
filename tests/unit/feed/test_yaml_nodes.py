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
        ("True", True),
        ("FALSE", False),
        ("yEs", "yEs"),
        ("0o8", "0o8"),
        ("1e", "1e"),
        ("!!str 1e3", "1e3"),
        ("'y'", "y"),
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
        "yes", "Off", "y", "N", "1e3", "12e5", "08", "0o10", "-.5", ".5e3", "1.e3", "-_1", "0_x1F",
        "!!null x", "!!timestamp x", "!!timestamp 2024-01-01", "!!value x", "! 12", "! x",
        "010", "0x1F", "1_000", "1:30", "+1", ".inf", ".nan", "1.",
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


@pytest.mark.parametrize("name", ["1", "on", "y", "1e3", "~", "[a]", "2.5", "!!merge x", "! a"])
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
    "merge", ["<<: *a", "<<: [*b, *a]", "!!merge <<: *a", "<<: {<<: *a}"], ids=str
)
def test_a_name_above_a_merge_that_has_it_too_is_refused(merge: str) -> None:
    """KAS takes the merged value there, and other readers the own one."""
    source = f"""\
a: &a {{environments: []}}
b: &b {{default_namespace: x}}
ci_access:
  projects:
    - id: acme/shop
      environments: [production]
      {merge}
"""
    [(line, reason)] = faults(source)
    assert (line, "below `<<`" in reason) == (6, True)


def test_a_name_below_a_merge_replaces_the_merged_one() -> None:
    source = """\
a: &a {environments: []}
ci_access: {projects: [{id: acme/shop, <<: *a, environments: [production]}]}
"""
    assert shared(source).projects == [{"id": "acme/shop", "environments": ["production"]}]


@pytest.mark.parametrize("name", ["'<<'", '"<<"', "!!str <<"])
def test_a_quoted_merge_is_a_name(name: str) -> None:
    """As for KAS, which then refuses the file: the name is unknown."""
    assert entry(f"{name}: {{default_namespace: x}}")["<<"] == {"default_namespace": "x"}
    source = f"ci_access:\n  projects:\n    - id: a/b\n      {name}: {{}}"
    [(line, reason)] = faults(source)
    assert (line, "`<<` in an entry" in reason) == (4, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("key:\ttext", "text"),
        ("key: text\t", "text"),
        ("key: some\t\n text", "some text"),
        ("key: text\t# comment", "text"),
        ("key\t: text", "text"),
        ("key: some\ttext", "some\ttext"),
        ("key: [1,\t2\t]", [1, 2]),
        ("key: {\n\ta: 1,\n\tb: 2\n}", {"a": 1, "b": 2}),
        ("key: 'some\ttext'", "some\ttext"),
    ],
)
def test_tabs_are_read_where_kas_reads_them(text: str, value: Any) -> None:
    assert entry(text)["key"] == value


def test_an_escape_that_kas_does_not_read_is_refused() -> None:
    [(line, reason)] = faults('a: 1\nb: "acme\\/shop"')
    assert (line, "unknown escape" in reason) == (2, True)


@pytest.mark.parametrize(
    ("source", "line"), [("a:\n\t- 1", 2), ("a:\n  b: 1\n\tc: 2", 3), ("a: 1\n\t# x", 2)]
)
def test_a_tab_that_begins_a_line_is_named_by_its_line(source: str, line: int) -> None:
    assert faults(source) == [(line, "not YAML: a line begins with a tab; indent with spaces")]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("a: >-\t\n  text", 1),
        ("a: !!str\ttext", 1),
        ("a:\n  b: 1\n  \t\n  c: 2", 3),
        ("a:\n  -\tb", 2),
    ],
)
def test_other_tabs_are_refused_but_not_called_wrong(source: str, line: int) -> None:
    assert faults(source) == [(line, "readers differ about this tab; write spaces")]


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
