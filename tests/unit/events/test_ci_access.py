"""Which entries of an agent's `config.yaml` count, and what is said of the others."""

from typing import Any

import pytest

from projector.events import ci_access, cloudevents
from projector.events.ci_access import MAX_REJECTIONS_SHOWN, Grant
from tests.builders import event, record

IMPERSONATE = {
    "username": "ci",
    "uid": None,
    "groups": ["a"],
    "extra": [{"key": "k", "val": ["v"]}],
}


def configured(projects: list[Any], groups: list[Any] | None = None) -> str | None:
    """What is reported of a configuration with these lists."""
    access = {"projects": projects, "groups": groups}
    message = event("agent.configured", {"id": 5, "config": {"ci_access": access}})
    return cloudevents.decode_event(record(message)).warning


def test_a_grant_is_its_place_its_target_and_the_rest() -> None:
    entries: list[ci_access.Entry] = [
        {"id": 7},
        {"id": 0},
        {"id": "Acme/Shop", "environments": ["x"], "future": 1},
    ]
    assert list(ci_access.read_grants(entries)) == [
        Grant(0, 7, {}),
        Grant(2, "acme/shop", {"environments": ["x"], "future": 1}),
    ]


@pytest.mark.parametrize("target", [None, "", 0, -1, 2**63, 7.0, True, [7], {"id": 7}])
def test_an_id_is_a_path_or_a_number(target: Any) -> None:
    assert "`id` must be a path" in (ci_access.rejection_reason({"id": target}) or "")
    assert "`id` must be a path" in (ci_access.rejection_reason({}) or "")


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"default_namespace": None, "access_as": None},
        {"default_namespace": "shop", "access_as": {"ci_job": {}}},
        {"environment_scope": 1, "namespace": "x", "access": {}, "ids": [], "tags": ["x"]},
        {"x" * 100_000: 1, "": 2, "-": 3},
        {"resource_management": {"enabled": True}},
        {"access_as": {"agent": {"more": 1}}},
        {"access_as": {"ci_job": {}, "ci_user": {}}},
        {"access_as": {"ci_job": {}, "agent": None}},
        {"access_as": {"impersonate": IMPERSONATE}},
        {"environments": 7, "protected_branches_only": [], "future": {"access_as": {}}},
    ],
)
def test_kas_can_read_it(configuration: dict[str, Any]) -> None:
    assert ci_access.unreadable_reason(configuration) is None


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ({"default_namespace": 1}, "`default_namespace` must be text"),
        ({"defaultNamespace": "a"}, "write `default_namespace`"),
        ({"default_namespace": "a", "defaultNamespace": "a"}, "write `default_namespace`"),
        ({"default_namespaces": "a"}, "write `default_namespace`"),
        ({"protected_branch_only": True}, "write `protected_branches_only`"),
        ({"protected-branches-only": True}, "write `protected_branches_only`"),
        ({"protectedBranchesOnly": True}, "write `protected_branches_only`"),
        ({"protectd_branchs_only": True}, "write `protected_branches_only`"),
        ({"environment": ["production"]}, "write `environments`"),
        ({"enviroments": ["production"]}, "write `environments`"),
        ({"enviornments": ["production"]}, "write `environments`"),
        ({"Environments": ["production"]}, "write `environments`"),
        ({"environments": [], "ENVIRONMENTS": ["production"]}, "write `environments`"),
        ({"accessAs": {"ci_job": {}}}, "write `access_as`"),
        ({"access-as": None}, "write `access_as`"),
        ({"acces_as": {"ci_job": {}}}, "write `access_as`"),
        ({"ID": 7}, "write `id`"),
        ({"access_as": [], "x": 1}, "must be an object"),
        ({"access_as": "agent"}, "must be an object"),
        ({"access_as": {}}, "exactly one"),
        ({"access_as": {"agent": None}}, "exactly one"),
        ({"access_as": {"ci_user": {}}}, "exactly one"),
        ({"access_as": {"agent": {}, "impersonate": IMPERSONATE}}, "exactly one"),
        ({"access_as": {"agent": {}}, "accessAs": None}, "write `access_as`"),
        ({"access_as": {"ciJob": {}}}, "write `ci_job`"),
        ({"access_as": {"ci_job": {}, "ciJob": {}}}, "write `ci_job`"),
        ({"access_as": {"agent": {}, "ci-job": {}}}, "write `ci_job`"),
        ({"access_as": {"impersonate": IMPERSONATE | {"Groups": []}}}, "write `groups`"),
        (
            {
                "access_as": {
                    "impersonate": IMPERSONATE | {"extra": [{"key": "k", "val": ["v"], "Val": []}]}
                }
            },
            "write `val`",
        ),
        ({"access_as": {"impersonate": IMPERSONATE | {"groups": ["a", ""]}}}, "groups"),
        (
            {"access_as": {"impersonate": IMPERSONATE | {"extra": [{"key": "k", "val": [""]}]}}},
            "val",
        ),
        ({"access_as": {"agent": []}}, "`access_as.agent`"),
        ({"access_as": {"impersonate": {}}}, "`access_as.impersonate`"),
        ({"access_as": {"impersonate": IMPERSONATE | {"username": ""}}}, "length >= 1"),
        ({"access_as": {"impersonate": IMPERSONATE | {"groups": [1]}}}, "groups"),
        ({"access_as": {"impersonate": IMPERSONATE | {"extra": [{"key": "k", "val": []}]}}}, "val"),
        ({"access_as": {"impersonate": IMPERSONATE | {"extra": [{"val": ["v"]}]}}}, "key"),
    ],
)
def test_kas_cannot_read_it(configuration: dict[str, Any], says: str) -> None:
    assert says in (ci_access.unreadable_reason(configuration) or "")


def test_every_entry_that_does_not_count_is_reported_by_its_place() -> None:
    said = configured([{"id": 7}, {"id": 0}], [{"id": "a", "access_as": {}}])
    assert said == (
        "applied all the same: "
        "`ci_access.projects[1]` does not count: `id` must be a path, or a number from 1; "
        "`ci_access.groups[0]` does not count: "
        "`access_as` must name exactly one of agent, ci_job, impersonate"
    )
    assert configured([{"id": 7}], [{"id": "a"}]) is None


def test_a_report_stays_readable_however_many_there_are() -> None:
    said = configured([{"id": 0}] * 500) or ""
    assert said.count("does not count") == MAX_REJECTIONS_SHOWN
    assert said.endswith(f"; and {500 - MAX_REJECTIONS_SHOWN} more")


def test_what_lies_beyond_the_limit_is_not_even_reported() -> None:
    assert configured([{"id": 7}] * 500 + [{"id": 0}]) is None


def test_a_very_long_name_is_not_kept_in_memory() -> None:
    ci_access.intended_field.cache_clear()
    long = "protected_branches_onl" + "-" * 100_000 + "y"
    assert ci_access.unreadable_reason({long: True}) is None
    assert ci_access.intended_field.cache_info().currsize == 0
    assert ci_access.unreadable_reason({"protected_branches_onl-y": True})
