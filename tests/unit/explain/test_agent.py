"""The explanation of an agent: the effective authorization, and those that lost."""

from tests import builders
from tests.unit.explain.world import COMPANY, STARTED, World


def test_the_closest_way_decides_and_those_that_lost_say_what_they_would_have_said() -> None:
    near = {"id": 7, "environments": ["review/*"]}
    far = {"id": 3, "protected_branches_only": True}
    world = World(
        *COMPANY, STARTED, builders.configured(5, projects=[near], groups=[{"id": 12}, far]),
        builders.shared(5, 99),
    )  # fmt: skip
    found = world.agent(5)
    assert (found.verdict, found.rule, found.source) == (
        "refused", "environments", "project_grant",
    )  # fmt: skip
    assert [(lost.source, lost.group, lost.rule) for lost in found.lost] == [
        ("own_project", None, None),
        ("group_grant", 12, None),
        ("group_grant", 3, "protected_branches_only"),
        ("instance", None, None),
    ]
    assert found.lost[0].sentence == "it is configured in project 7, the job's own"
    assert found.configuration == {"environments": ["review/*"]}


def test_entries_that_do_not_count_are_named_beside_the_one_that_wins() -> None:
    entries = [{"id": "acme/PLATFORM", "access_as": {}}, {"id": 3}]
    world = World(*COMPANY, STARTED, builders.configured(6, groups=entries))
    found = world.agent(6)
    assert (found.verdict, found.group) == ("allowed", 3)
    assert [s.split(":")[0] for s in found.left_out] == [
        "its entry `ci_access.groups[0]` does not count"
    ]


def test_an_entry_too_large_to_show_is_left_out_and_nothing_else() -> None:
    large = {"id": 12, "default_namespace": "n" * 20_000}
    found = World(*COMPANY, STARTED, builders.configured(6, groups=[large])).agent(6)
    assert (found.verdict, found.configuration) == ("allowed", None)
