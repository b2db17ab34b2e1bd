from typing import Any

import pytest

from tests.unit.gitlab.gitlab_world import GitLab, Told


@pytest.fixture
def gitlab() -> GitLab:
    """Groups 3 > 12 with project 7 of agent 5, another root 40 with project 9, users 1 and 2."""
    world = GitLab()
    world.group(3)
    world.group(12, 3)
    world.group(40)
    world.project(7, 12)
    world.project(9, 40)
    world.user(1)
    world.user(2)
    return world


def members(gitlab: GitLab) -> dict[str, Any]:
    return {told.data["via"]: told.data for told in gitlab.compare("member.set")}


def test_groups_and_projects_come_with_their_paths_under_their_root(gitlab: GitLab) -> None:
    gitlab.home(60, 1)
    gitlab.project(8, 60)
    assert gitlab.compare("group", "project") == [
        Told("group.set", "3", {"id": 3, "parent_id": None, "path": "g3"}),
        Told("group.set", "3", {"id": 12, "parent_id": 3, "path": "g12"}),
        Told("group.set", "40", {"id": 40, "parent_id": None, "path": "g40"}),
        Told("project.set", "3", {"id": 7, "group_id": 12, "path": "p7"}),
        Told("project.set", "60", {"id": 8, "group_id": None, "path": "p8"}),
        Told("project.set", "40", {"id": 9, "group_id": 40, "path": "p9"}),
    ]


def test_what_has_no_root_is_not_there(gitlab: GitLab) -> None:
    gitlab.change("namespaces", 3, parent_id=12)  # a circle
    gitlab.change("namespaces", 40, parent_id=99)  # no such group
    gitlab.member(1, 1, 12)
    gitlab.agent(5, 7)
    gitlab.job(9, 7, 1)
    assert gitlab.compare() == []


def test_a_member_of_a_group_or_a_project(gitlab: GitLab) -> None:
    gitlab.member(1, 1, 12, access_level=40)
    gitlab.member(2, 2, 9, source_type="Project", expires_at="2027-01-31")
    assert gitlab.compare("member") == [
        Told("member.set", "3", {"user_id": 1, "group_id": 12, "role": 40, "via": "m1",
                                 "expires_at": None}),
        Told("member.set", "40", {"user_id": 2, "project_id": 9, "role": 30, "via": "m2",
                                  "expires_at": "2027-01-31"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"requested_at": "2026-01-01 00:00:00"},
        {"state": 1},
        {"state": None},
        {"access_level": 5},
        {"access_level": None},
        {"user_id": None},
        {"source_id": 99},
        {"source_type": "Organization"},
    ],
)
def test_rows_that_are_no_membership(gitlab: GitLab, fault: dict[str, Any]) -> None:
    gitlab.add("members", 1, **{"user_id": 1, "source_id": 12, **fault})
    gitlab.add("group_group_links", 1, shared_group_id=40, shared_with_group_id=12)
    gitlab.add("project_group_links", 1, project_id=9, group_id=12)
    assert gitlab.compare("member") == []
    assert gitlab.refused == []


@pytest.mark.parametrize(
    ("own", "of_the_link", "earlier"),
    [
        (None, None, None),
        ("2027-01-31", None, "2027-01-31"),
        (None, "2027-02-01", "2027-02-01"),
        ("2027-01-31", "2027-02-01", "2027-01-31"),
        ("2027-03-31", "2027-02-01", "2027-02-01"),
        ("infinity", "2027-02-01", "2027-02-01"),
        ("10000-01-01", "2027-02-01", "2027-02-01"),
        ("10000-01-01", "infinity", None),
        ("-infinity", "2027-02-01", "0001-01-01"),
        ("0044-03-15 BC", "2027-02-01", "0044-03-15"),
        ("2027-01-31 00:00:00+00", None, "2027-01-31"),
    ],
)
def test_the_earlier_expiry_counts(
    gitlab: GitLab, own: str | None, of_the_link: str | None, earlier: str | None
) -> None:
    gitlab.member(1, 1, 12, expires_at=own)
    gitlab.add("group_group_links", 1, shared_group_id=40, shared_with_group_id=12,
               expires_at=of_the_link)  # fmt: skip
    gitlab.add("project_group_links", 1, project_id=9, group_id=12, expires_at=of_the_link)
    found = members(gitlab)
    assert [found[via]["expires_at"] for via in ("g1/m1", "p1/m1")] == [earlier, earlier]


def test_a_group_shared_with_a_group_has_its_direct_members(gitlab: GitLab) -> None:
    gitlab.member(1, 1, 12, access_level=50)
    gitlab.member(2, 2, 3)  # of the group above
    gitlab.add("group_group_links", 4, shared_group_id=40, shared_with_group_id=12)
    found = members(gitlab)
    assert found["g4/m1"] == {
        "user_id": 1, "group_id": 40, "role": 30, "via": "g4/m1", "expires_at": None
    }  # fmt: skip
    assert "g4/m2" not in found


def test_a_project_shared_with_a_group_has_all_who_are_in_it(gitlab: GitLab) -> None:
    gitlab.group(13, 3)
    gitlab.group(50)
    for row, (user, group) in enumerate([(1, 12), (2, 3), (3, 13), (4, 50)], start=1):
        gitlab.member(row, user, group, access_level=40)
    gitlab.add("group_group_links", 8, shared_group_id=3, shared_with_group_id=50, group_access=20)
    gitlab.add("project_group_links", 4, project_id=9, group_id=12, group_access=30)
    found = members(gitlab)
    of_project = {via: data["role"] for via, data in found.items() if "project_id" in data}
    assert of_project == {"p4/m1": 30, "p4/m2": 30, "p4/g8/m4": 20}


@pytest.mark.parametrize(("lock", "is_shared"), [(0, True), (1, False), (None, False)])
def test_the_lock_of_the_projects_own_group_ends_shares(
    gitlab: GitLab, lock: int | None, is_shared: bool
) -> None:
    gitlab.member(1, 1, 12)
    gitlab.add("project_group_links", 4, project_id=9, group_id=12)
    gitlab.change("namespaces", 40, share_with_group_lock=lock)
    gitlab.change("namespaces", 12, share_with_group_lock=1)  # of the invited group: no matter
    assert ("p4/m1" in members(gitlab)) == is_shared


@pytest.mark.parametrize("access", [0, 5, None])
def test_a_share_without_access_gives_nothing(gitlab: GitLab, access: int | None) -> None:
    gitlab.member(1, 1, 12)
    gitlab.add("group_group_links", 1, shared_group_id=40, shared_with_group_id=12,
               group_access=access)  # fmt: skip
    gitlab.add("project_group_links", 1, project_id=9, group_id=12, group_access=access)
    assert list(members(gitlab)) == ["m1"]


def test_one_user_of_a_share_is_compared_alone(gitlab: GitLab) -> None:
    gitlab.member(1, 1, 12)
    gitlab.member(2, 2, 12)
    gitlab.add("group_group_links", 4, shared_group_id=40, shared_with_group_id=12)
    gitlab.add("project_group_links", 4, project_id=9, group_id=12)
    gitlab.compare()
    gitlab.db.execute("UPDATE members SET access_level = 20")
    gitlab.mark("group_share", 4, user=1)
    gitlab.mark("project_share", 4, user=2)
    assert [told.data["via"] for told in gitlab.compare_dirty()] == ["g4/m1", "p4/m2"]
    gitlab.delete("members", 1)
    gitlab.delete("members", 2)
    gitlab.mark("group_share", 4, user=1)
    assert [told.data for told in gitlab.compare_dirty()] == [
        {"user_id": 1, "group_id": 40, "via": "g4/m1"}
    ]


def test_a_project_in_a_home_has_its_owner(gitlab: GitLab) -> None:
    gitlab.home(60, 1)
    gitlab.home(61, None)
    gitlab.project(8, 60)
    gitlab.project(10, 61)
    assert gitlab.compare("member") == [
        Told("member.set", "60", {"user_id": 1, "project_id": 8, "role": 50, "via": "owner"})
    ]


def test_only_users_who_are_not_active_are_told(gitlab: GitLab) -> None:
    gitlab.change("users", 2, state="deactivated")
    gitlab.user(3, state=None)
    assert gitlab.compare("user") == [
        Told("user.set", "*", {"id": 2, "username": "u2", "state": "deactivated"}),
        Told("user.set", "*", {"id": 3, "username": "user-3", "state": "blocked"}),
    ]


def test_a_configuration_has_the_rows_of_its_own_root_in_their_order(gitlab: GitLab) -> None:
    gitlab.project(8, 3)
    gitlab.agent(5, 7)
    gitlab.grant(2, 5, {"default_namespace": "b"}, project_id=7)
    gitlab.grant(1, 5, {"default_namespace": "a", "id": "acme/shop"}, project_id=8)
    gitlab.grant(3, 5, project_id=9)  # in another root
    gitlab.grant(4, 5, {"environments": ["review/*"]}, group_id=3)
    gitlab.grant(5, 5, group_id=40)
    assert gitlab.compare("agent") == [
        Told("agent.set", "3", {"id": 5, "name": "a5", "project_id": 7}),
        Told("agent.configured", "3", {"id": 5, "config": {"ci_access": {
            "projects": [{"default_namespace": "a", "id": 8}, {"default_namespace": "b", "id": 7}],
            "groups": [{"environments": ["review/*"], "id": 3}],
        }}}),
    ]  # fmt: skip


@pytest.mark.parametrize(("setting", "is_shared"), [(1, True), (0, False), (None, False)])
def test_rows_in_another_root_are_told_there_if_gitlab_lets_them(
    gitlab: GitLab, setting: int | None, is_shared: bool
) -> None:
    gitlab.group(50)
    gitlab.agent(5, 7)
    gitlab.grant(3, 5, {"default_namespace": "x"}, project_id=9)
    gitlab.grant(4, 5, group_id=50)
    gitlab.grant(5, 5, group_id=3)
    gitlab.setting(setting)
    agent = {"id": 5, "name": "a5", "project_id": 7}
    there = {"projects": [{"default_namespace": "x", "id": 9}], "groups": []}
    expected = [
        Told("shared-agent.set", "40", {**agent, "config": {"ci_access": there}}),
        Told("shared-agent.set", "50",
             {**agent, "config": {"ci_access": {"projects": [], "groups": [{"id": 50}]}}}),
    ]  # fmt: skip
    assert gitlab.compare("shared") == (expected if is_shared else [])
    gitlab.setting(0)
    assert [told.type for told in gitlab.compare()] == ["shared-agent.removed"] * 2 * is_shared


@pytest.mark.parametrize(("setting", "is_shared"), [(1, True), (0, False), (None, True)])
def test_an_agent_of_the_instance(gitlab: GitLab, setting: int | None, is_shared: bool) -> None:
    gitlab.agent(5, 7)
    gitlab.add("agent_organization_authorizations", 1, agent_id=5, config="{}")
    gitlab.add("agent_organization_authorizations", 2, agent_id=5, config='{"a": 1}')
    assert not gitlab.compare("instance"), "the setting is not read yet"
    gitlab.setting(setting)
    data = {"id": 5, "name": "a5", "project_id": 7, "configuration": {"a": 1}}
    expected = [Told("instance-agent.set", "*", data)]
    assert gitlab.compare("instance") == (expected if is_shared else [])


EXACT = (
    '{"n": 1.0, "big": 123456789012345678901234567890, "e": 1E+2, "t": "NaN \\u00e9 é \\" \\\\",'
    ' "z": -0, "long": 0.10000000000000000000000001, "deep": [[[{"id": 1}]]]}'
)


@pytest.mark.parametrize(
    ("config", "entry"),
    [
        ("{}", '{"id":7}'),
        (" { } ", '{ "id":7}'),
        (EXACT, EXACT[:-1] + ',"id":7}'),
        ('{"id": 99, "\\u0069d": 98, "id": 97}', '{"id": 99, "\\u0069d": 98, "id": 97,"id":7}'),
    ],
)
def test_a_configuration_is_kept_as_it_is_written(gitlab: GitLab, config: str, entry: str) -> None:
    gitlab.agent(5, 7)
    gitlab.grant(1, 5, config, project_id=7)
    gitlab.add("agent_organization_authorizations", 1, agent_id=5, config=config)
    gitlab.setting(1)
    gitlab.compare()
    data = [data for (data,) in gitlab.db.execute("SELECT data FROM told WHERE a = 5")]
    assert f'{{"ci_access":{{"projects":[{entry}],"groups":[]}}}}' in "".join(data)
    assert f'"configuration":{config}}}' in "".join(data)


@pytest.mark.parametrize(
    "config",
    ["[]", "null", "1", '"{}"', "", "{", "{]", '{"a":1}}', "{'a': 1}", "{a: 1}", '{"a":1,}',
     '{"a":NaN}', "[" * 2000 + "]" * 2000, '{"a":' * 5000 + "1" + "}" * 5000, "\ufeff{}", None],
)  # fmt: skip
def test_a_configuration_that_is_no_object_is_left_out(gitlab: GitLab, config: str | None) -> None:
    gitlab.agent(5, 7)
    gitlab.add("agent_project_authorizations", 1, agent_id=5, project_id=7, config=config)
    gitlab.add("agent_organization_authorizations", 1, agent_id=5, config=config)
    gitlab.grant(2, 5, {"default_namespace": "x"}, group_id=3)
    assert gitlab.compare("agent.configured", "instance") == [
        Told("agent.configured", "3", {"id": 5, "config": {"ci_access": {
            "projects": [], "groups": [{"default_namespace": "x", "id": 3}]}}})
    ]  # fmt: skip


JOB = {
    "id": 9,
    "token_sha256": None,
    "project_id": 7,
    "pipeline_id": 2000,
    "user": {"id": 1, "username": "u1"},
    "ref_protected": False,
    "environment": None,
    "expires_at": "2026-11-29T02:00:00Z",
}


def job_of(gitlab: GitLab, **columns: Any) -> Any:
    gitlab.job(9, 7, 1, **columns)
    found = gitlab.compare("job")
    assert [told.root for told in found] == ["3"]
    return found[0].data


def test_a_job_has_what_its_row_and_its_user_say(gitlab: GitLab) -> None:
    assert job_of(gitlab) == JOB


@pytest.mark.parametrize("protected", [None, 0, 1])
def test_a_ref_is_protected_only_if_its_row_says_so(gitlab: GitLab, protected: int | None) -> None:
    assert job_of(gitlab, protected=protected)["ref_protected"] is (protected == 1)


@pytest.mark.parametrize(
    ("started_at", "timeout", "expires_at"),
    [
        ("2026-11-29 00:00:00", 7200, "2026-11-29T03:00:00Z"),
        ("2026-11-29 00:00:00+00", 7200, "2026-11-29T03:00:00Z"),
        ("2026-11-29 00:00:00", None, "2026-12-30T01:00:00Z"),  # a month, and an hour
        ("2026-11-29 00:00:00", -5, "2026-11-29T01:01:00Z"),
        (None, 3600, "9999-12-31T23:59:59Z"),
        ("infinity", 3600, "9999-12-31T23:59:59Z"),
        ("10000-01-01 00:00:00", 3600, "9999-12-31T23:59:59Z"),
        ("9999-12-31 23:59:00", 3600, "9999-12-31T23:59:59Z"),
        ("2026-11-29 00:00:00", 2**63 - 4000, "9999-12-31T23:59:59Z"),
        ("2026-11-29 00:00:00", 2**62, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_job_expires_after_its_timeout(
    gitlab: GitLab, started_at: str | None, timeout: int | None, expires_at: str
) -> None:
    assert job_of(gitlab, started_at=started_at, timeout=timeout)["expires_at"] == expires_at


def test_a_job_has_the_environment_that_exists(gitlab: GitLab) -> None:
    gitlab.add("p_ci_builds_metadata", 1, build_id=9, expanded_environment_name="review/1")
    assert job_of(gitlab)["environment"] is None
    gitlab.add("environments", 1, project_id=9, name="review/1", slug="other", tier=0)
    gitlab.add("environments", 2, project_id=7, name="review/1", slug="review-1", tier=3)
    review = {"name": "review/1", "slug": "review-1", "tier": "development"}
    assert [told.data["environment"] for told in gitlab.compare("job")] == [review]
    gitlab.add("job_environments", 1, ci_job_id=9, expanded_environment_name="production")
    assert [told.data["environment"] for told in gitlab.compare("job")] == [None]


@pytest.mark.parametrize(
    ("tier", "name"),
    [(0, "production"), (1, "staging"), (2, "testing"), (3, "development"), (4, "other"),
     (None, "other"), (77, "other")],
)  # fmt: skip
def test_an_environment_has_a_tier(gitlab: GitLab, tier: int | None, name: str) -> None:
    gitlab.add("p_ci_builds_metadata", 1, build_id=9, expanded_environment_name="x")
    gitlab.add("environments", 2, project_id=7, name="x", slug="x", tier=tier)
    assert job_of(gitlab)["environment"]["tier"] == name


@pytest.mark.parametrize(
    "fault",
    [{"status": "success"}, {"status": None}, {"type": "Ci::Bridge"}, {"user_id": 99},
     {"user_id": None}, {"project_id": 99}, {"project_id": None}, {"commit_id": None}],
)  # fmt: skip
def test_rows_that_are_no_live_job(gitlab: GitLab, fault: dict[str, Any]) -> None:
    gitlab.add("p_ci_builds", 9, **{"project_id": 7, "user_id": 1, **fault})
    assert gitlab.compare("job") == []


def test_a_project_that_is_about_to_be_deleted_starts_no_job(gitlab: GitLab) -> None:
    gitlab.job(9, 7, 1)
    gitlab.compare()
    gitlab.change("projects", 7, pending_delete=1)
    gitlab.job(10, 7, 1)
    assert gitlab.compare() == [Told("project.removed", "3", {"id": 7})]
    gitlab.change("projects", 7, pending_delete=0)
    assert [told.data["id"] for told in gitlab.compare()] == [7, 10]


HOSTILE = ["a\0b", "\ud7ff\U0010ffff", '"\\', "\r\n\t\x1f", "x" * 10_000, "NaN", "' OR 1", "1"]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_come_as_they_are(gitlab: GitLab, text: str) -> None:
    gitlab.change("routes", 1003, path=text)
    gitlab.change("users", 1, username=text, state="blocked")
    gitlab.agent(5, 7, name=text)
    gitlab.add("p_ci_builds_metadata", 1, build_id=9, expanded_environment_name=text)
    gitlab.add("environments", 2, project_id=7, name=text, slug=text, tier=0)
    gitlab.job(9, 7, 1)
    found = {(told.type, told.data["id"]): told.data for told in gitlab.compare()}
    assert found["group.set", 3]["path"] == found["agent.set", 5]["name"] == text
    assert found["user.set", 1]["username"] == found["job.started", 9]["user"]["username"] == text
    assert found["job.started", 9]["environment"]["slug"] == text
