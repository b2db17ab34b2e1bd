"""An agent's `config.yaml`: what it means, and by which line every fault is named."""

from typing import Any

import msgspec
import pytest

from projector.events.ci_access import MAX_ENTRIES
from projector.feed import event_file
from projector.feed.agent_config_file import (
    MAX_BYTES,
    MAX_VALUES,
    Agent,
    BadAgentFile,
    CiAccess,
    agent_events,
    read_agent_config,
)

AGENT = Agent(5, "production", 3, "12")
FILE = b"""\
# .gitlab/agents/production/config.yaml
gitops: {since: 2024-01-01, on: 1, on: 2}
ci_access:
  projects:
    - id: acme/platform/shop
      default_namespace: shop
      environments: &both
        - production
        - review/*
    - id: 7
      environments: *both
      access_as:
        ci_job: {}
  groups:
    - id: acme
      protected_branches_only: true
"""


def shared(source: str) -> CiAccess:
    return read_agent_config(source.encode())


def entry(source: str) -> Any:
    """What the fields of one entry mean."""
    indented = "".join(f"\n      {line}" for line in source.splitlines())
    [only] = shared(f"ci_access:\n  projects:\n    - id: a{indented}").projects
    return only


def faults(source: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(BadAgentFile) as caught:
        read_agent_config(source if isinstance(source, bytes) else source.encode())
    return [(line, reason) for line, reason in caught.value.faults]


def test_the_file_means_these_events() -> None:
    projects = [
        {
            "id": "acme/platform/shop",
            "default_namespace": "shop",
            "environments": ["production", "review/*"],
        },
        {"id": 7, "environments": ["production", "review/*"], "access_as": {"ci_job": {}}},
    ]
    groups = [{"id": "acme", "protected_branches_only": True}]
    messages = [msgspec.json.decode(line) for line in agent_events(AGENT, read_agent_config(FILE))]
    assert [
        (message["type"], message["partitionkey"], message["data"]) for message in messages
    ] == [
        ("agent.set", "12", {"id": 5, "name": "production", "project_id": 3}),
        (
            "agent.configured",
            "12",
            {"id": 5, "config": {"ci_access": {"projects": projects, "groups": groups}}},
        ),
        ("instance-agent.removed", "12", {"id": 5}),
    ]
    assert all(event_file.parse_line(line) for line in agent_events(AGENT, read_agent_config(FILE)))


@pytest.mark.parametrize(
    ("key", "configuration"),
    [
        ("instance: {}", {}),
        ("instance: {default_namespace: ci}", {"default_namespace": "ci"}),
        ("instance:", None),
        ("projects: []", None),
    ],
)
def test_the_instance_key_shares_with_the_instance_and_its_lack_ends_that(
    key: str, configuration: Any
) -> None:
    access = shared(f"ci_access:\n  {key}")
    *_, last = (msgspec.json.decode(line) for line in agent_events(AGENT, access))
    data = {"id": 5, "name": "production", "project_id": 3, "configuration": configuration}
    expected = ("instance-agent.removed", {"id": 5}) if configuration is None else (
        "instance-agent.set", data
    )  # fmt: skip
    assert (last["type"], last["data"]) == expected


@pytest.mark.parametrize("source", ["", "# nothing", "ci_access:", "ci_access: {projects: }", "{}"])
def test_a_file_may_share_nothing(source: str) -> None:
    access = shared(source)
    assert access[:3] == ([], [], None)
    assert access.notes == [(1, "this shares the agent with nobody")]


# faults, by line


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        ("a: 1\nb: [", 2, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("a: 1\nb: *nowhere", 2, "undefined alias"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        (b"a: 1\nb: \x00", 2, "not YAML"),
        (b"a: 1\nb: \xff", 2, "not YAML"),
        ("[" * 5000, 1, "nested too deep"),
        ("- a", 1, "the file must be a mapping"),
        ("a: 1\nci_access: [x]", 2, "`ci_access` must be a mapping"),
        ("ci_access:\n  projects: acme", 2, "`ci_access.projects` must be a list"),
        ("ci_access:\n  groups: {id: acme}", 2, "`ci_access.groups` must be a list"),
        ("ci_access:\n  instance: true", 2, "`ci_access.instance` must be a mapping"),
        ("ci_access:\n  instance: {access_as: {}}", 2, "must name exactly one of"),
        ("ci_access:\n  projects:\n    - acme/shop", 3, "must be a mapping"),
        ("ci_access:\n  projects:\n    - id: 0", 3, "`id` must be a path, or a number from 1"),
        ("ci_access:\n  groups:\n    - default_namespace: x", 3, "`id` must be a path"),
        ("ci_access:\n  groups: []\n  groups: []", 3, "`groups` is given twice"),
        ("a: &a {}\n<<: *a\n<<: *a", 3, "`<<` is given twice"),
        ("<<: [1]", 1, "what `<<` names must be a mapping"),
        ("ci_access: {}\nci_access: {}", 2, "`ci_access` is given twice"),
    ],
)
def test_a_fault_is_named_by_its_line(source: str | bytes, line: int, says: str) -> None:
    [(where, reason)] = faults(source)
    assert where == line
    assert says in reason


def test_all_faults_are_named_at_once() -> None:
    source = "ci_access:\n  projects:\n    - id: 0\n    - id: a\n    - b\n  groups: 7"
    assert [line for line, _ in faults(source)] == [3, 5, 6]


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


def test_a_larger_file_than_kas_reads_is_refused() -> None:
    assert read_agent_config(b"#" * MAX_BYTES)[:3] == ([], [], None)
    assert "KAS reads" in faults(b"#" * (MAX_BYTES + 1))[0][1]


def test_more_entries_than_count_are_left_out_and_noted() -> None:
    entries = "".join(f"\n    - id: p{n}" for n in range(MAX_ENTRIES + 2))
    access = shared(f"ci_access:\n  projects:{entries}")
    assert len(access.projects) == MAX_ENTRIES
    [(line, note)] = access.notes
    assert line == MAX_ENTRIES + 3
    assert note == "`ci_access.projects`: only the first 500 of 502 entries count"


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        (
            "ci_access:\n  project:\n    - id: a\n  groups: [{id: a}]",
            [(2, "`ci_access.project` is not read; did you mean `projects`?")],
        ),
        ("ci_access:\n  groups: [{id: a}]\n  zzz: 1", [(3, "`ci_access.zzz` is not read")]),
        (
            "a: 1\nci-access:\n  groups: [{id: a}]",
            [
                (1, "this shares the agent with nobody"),
                (2, "`ci-access` is not read; did you mean `ci_access`?"),
            ],
        ),
        (
            "ci_access:\n  groups:\n    - id: a\n      environments: production",
            [(4, "an entry of `ci_access.groups` lets nobody in: `environments` is no list")],
        ),
        ("ci_access:\n  groups: [{id: a, environments: }]", []),
        ("user_access: {}\nci_access: {instance: {}}", []),
    ],
)
def test_what_is_probably_not_meant_is_noted(source: str, notes: list[tuple[int, str]]) -> None:
    assert shared(source).notes == notes


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
    assert "no characters" in reason


def test_no_fault_repeats_a_token() -> None:
    token = "glcbt-64_abcdefghijklmnopqrst"
    for source in (f"a: *{token}", f"ci_access: {{{token}: 1, {token}: 2}}"):
        assert "abcdef" not in str(faults(source))
