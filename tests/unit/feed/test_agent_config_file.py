"""An agent's `config.yaml`: what it means, and by which line every fault is named."""

from typing import Any

import msgspec
import pytest

from projector.events.ci_access import MAX_ENTRIES
from projector.feed import event_file
from projector.feed.agent_config_file import (
    MAX_BYTES,
    BadAgentFile,
    ConfiguredAgent,
    agent_events,
    read_agent_config,
)
from tests.unit.feed.config_files import faults, shared

AGENT = ConfiguredAgent(5, "production", 3, "12")
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
    assert access.notes == [(1, "this shares the agent with no project")]


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
        ("ci_access:\n  instance: {id: 7}", 2, "`id` in `ci_access.instance` is unknown"),
    ],
)
def test_a_fault_is_named_by_its_line(source: str | bytes, line: int, says: str) -> None:
    [(where, reason)] = faults(source)
    assert where == line
    assert says in reason


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("protected_branch_only", "protected_branches_only"),
        ("protected-branches-only", "protected_branches_only"),
        ("protectedBranchesOnly", "protected_branches_only"),
        ("protected_branches", "protected_branches_only"),
        ("environment", "environments"),
        ("enviroments", "environments"),
        ("Environments", "environments"),
        ("accessAs", "access_as"),
        ("defaultNamespace", "default_namespace"),
        ("namespace", "default_namespace"),
        ("ID", "id"),
    ],
)
def test_a_misspelt_field_of_an_entry_is_refused_by_its_line(name: str, meant: str) -> None:
    source = f"ci_access:\n  groups:\n    - id: acme\n      {name}:\n        - x"
    [(line, reason)] = faults(source)
    part = "an entry of `ci_access.groups`"
    assert (line, reason) == (4, f"`{name}` in {part} is unknown; did you mean `{meant}`?")


@pytest.mark.parametrize(
    ("access", "name", "part"),
    [
        ("ciJob: {}", "ciJob", "`access_as`"),
        ("agent: {}\n  ci_user: {}", "ci_user", "`access_as`"),
        ("agent: {as: root}", "as", "`agent`"),
        ("impersonate: {username: a, group: [b]}", "group", "`impersonate`"),
        ("impersonate: {username: a, extra: [{key: a, val: [b], vals: []}]}", "vals", "`extra`"),
    ],
)
def test_an_unknown_field_inside_access_as_is_refused(access: str, name: str, part: str) -> None:
    indented = access.replace("\n", "\n      ")
    [(_, reason)] = faults(
        f"ci_access:\n  groups:\n    - id: a\n      access_as:\n        {indented}"
    )
    assert reason.startswith(f"`{name}` in {part} in ")


def test_a_merged_field_that_is_unknown_is_named_where_it_is_written() -> None:
    source = "a: &a\n  enviroments: [x]\nci_access:\n  groups: [{id: a, <<: *a}]"
    assert [line for line, _ in faults(source)] == [2]


def test_a_field_of_a_newer_kas_can_be_allowed_but_not_a_misspelt_one() -> None:
    source = "ci_access:\n  groups:\n    - {id: a, newer: 1}\n    - {id: b, enviroments: [x]}"
    assert [line for line, _ in faults(source)] == [3, 4]
    with pytest.raises(BadAgentFile) as caught:
        shared(source, allow_unknown=True)
    assert [line for line, _ in caught.value.faults] == [4]
    assert shared(source.replace("enviroments", "older"), allow_unknown=True).groups == [
        {"id": "a", "newer": 1}, {"id": "b", "older": ["x"]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields", ["resource_management: {enabled: true}", "environments: [a]", "access_as:"]
)
def test_a_field_that_kas_reads_is_kept(fields: str) -> None:
    assert shared(f"ci_access: {{groups: [{{id: a, {fields}}}]}}").notes == []


def test_all_faults_are_named_at_once() -> None:
    source = "ci_access:\n  projects:\n    - id: 0\n    - id: a\n    - b\n  groups: 7"
    assert [line for line, _ in faults(source)] == [3, 5, 6]


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
                (1, "this shares the agent with no project"),
                (2, "`ci-access` is not read; did you mean `ci_access`?"),
            ],
        ),
        (
            "ci_access:\n  groups:\n    - id: a\n      environments: production",
            [(4, "an entry of `ci_access.groups` allows no job: `environments` is not a list")],
        ),
        (
            "ci_access:\n  groups:\n    - id: a\n      environments: [1]",
            [
                (
                    4,
                    "an entry of `ci_access.groups` allows no job: "
                    "`environments` must be texts that are not empty",
                )
            ],
        ),
        (
            "a: {ci_access: {groups: [{id: a}]}}\nci_access: {groups: [{id: a}]}",
            [(1, "`ci_access` inside another block is not read; move it out of that block")],
        ),
        (
            "ci_access:\n  groups: [{id: a}]\n  ci_access: {}",
            [(3, "`ci_access` inside another block is not read; move it out of that block")],
        ),
        ("a: &a {ci_access: {groups: [{id: a}]}}\n<<: *a", []),
        ("ci_access:\n  groups: [{id: a, environments: }]", []),
        ("user_access: {}\nci_access: {instance: {}}", []),
    ],
)
def test_what_is_probably_not_meant_is_noted(source: str, notes: list[tuple[int, str]]) -> None:
    assert shared(source).notes == notes


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("acme/shop/", "begins or ends with `/`"),
        ("/acme/shop", "begins or ends with `/`"),
        ("https://gitlab.example.com/acme/shop", "an address"),
        ("acme/shop.git", "ends in `.git`"),
        ("acme//shop", "not a path"),
        ("acme/my shop", "not a path"),
        ("' acme/shop'", "not a path"),
        ("'acme/shop\n\n'", "not a path"),
        ("acme/*", "not a path"),
    ],
)
def test_a_path_that_nothing_can_have_is_noted(target: str, says: str) -> None:
    [(line, note)] = shared(f"ci_access:\n  projects:\n    - id: {target}").notes
    assert line == 3
    assert note.startswith("an entry of `ci_access.projects` allows no job: ")
    assert says in note


@pytest.mark.parametrize("target", ["acme/shop", "Acme/my-shop_2/v1.0", "_a", "7", "a/b.gitx"])
def test_a_path_that_something_can_have_is_not(target: str) -> None:
    assert shared(f"ci_access:\n  projects:\n    - id: {target}").notes == []


def test_no_fault_repeats_a_token() -> None:
    token = "glcbt-64_abcdefghijklmnopqrst"
    for source in (f"a: *{token}", f"ci_access: {{{token}: 1, {token}: 2}}"):
        assert "abcdef" not in str(faults(source))
