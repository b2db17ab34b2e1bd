from typing import Any

import pytest
import structlog

from projector.gitlab.mapping import acceptance
from projector.gitlab.mapping.comparison import compare, facts
from tests.unit.gitlab.gitlab_world import GitLab, Told

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
TOKEN_LIKE = "a text in it looks like a job token"


@pytest.fixture
def gitlab() -> GitLab:
    """Group 3 > 12 with project 7, member 1 of each kind, agent 5 with a grant, job 9."""
    world = GitLab()
    for group, parent in ((3, None), (12, 3), (40, None)):
        world.group(group, parent)
    world.project(7, 12)
    world.project(9, 40)
    world.user(1)
    world.member(1, 1, 12)
    world.add("members", 2, user_id=1, source_id=7, source_type="Project")
    world.agent(5, 7)
    world.grant(1, 5, group_id=12)
    world.job(9, 7, 1)
    world.compare()
    return world


def types(events: list[Told]) -> list[str]:
    return [f"{told.type} {told.root}" for told in events]


def test_nothing_is_told_twice(gitlab: GitLab) -> None:
    assert gitlab.compare() == []
    assert gitlab.db.execute("SELECT count(*) FROM dirty").fetchone() == (0,)


def test_only_dirty_rows_are_compared(gitlab: GitLab) -> None:
    gitlab.db.execute("UPDATE members SET access_level = 40")
    gitlab.mark("member", 2)
    assert [told.data["via"] for told in gitlab.compare_dirty()] == ["m2"]


def test_jobs_end_first_and_start_last_and_removals_follow_sets() -> None:
    gitlab = GitLab()
    gitlab.group(3)
    gitlab.project(7, 3)
    gitlab.user(1)
    gitlab.user(2)
    gitlab.member(1, 1, 3)
    gitlab.agent(5, 7)
    gitlab.grant(1, 5, group_id=3)
    gitlab.add("agent_organization_authorizations", 1, agent_id=5, config="{}")
    gitlab.job(9, 7, 1)
    gitlab.setting(1)
    first = gitlab.compare()
    gitlab.group(40)
    gitlab.change("projects", 7, namespace_id=40)  # and all that is in it
    gitlab.change("users", 2, state="blocked")
    gitlab.delete("members", 1)
    gitlab.delete("agent_organization_authorizations", 1)
    gitlab.member(2, 1, 40)
    gitlab.job(10, 7, 1)
    assert types(first) == [
        "group.set 3", "project.set 3", "member.set 3", "agent.set 3", "agent.configured 3",
        "instance-agent.set *", "job.started 3",
    ]  # fmt: skip
    assert types(gitlab.compare()) == [
        "job.finished 3", "user.set *", "group.set 40", "project.set 40", "member.set 40",
        "agent.set 40", "agent.configured 3", "shared-agent.set 3", "instance-agent.removed *",
        "agent.removed 3", "member.removed 3", "project.removed 3", "job.started 40",
    ]  # fmt: skip


def test_all_events_of_a_comparison_have_its_sequence_and_time() -> None:
    gitlab = GitLab()
    gitlab.group(3)
    gitlab.change("namespaces", 3, root="3")
    gitlab.mark("group", 3)
    assert compare(gitlab.db, sequence="7", time_ms=1_000) == 1
    assert gitlab.db.execute("SELECT type, root, sequence, time FROM outbox").fetchall() == [
        ("group.set", "3", "7", 1_000)
    ]


# groups and projects with their members


def test_members_go_with_their_group_and_come_back_with_it(gitlab: GitLab) -> None:
    gitlab.delete("routes", 1012)
    gitlab.mark("group", 12)
    assert gitlab.compare_dirty() == [Told("group.removed", "3", {"id": 12})]
    assert {fact[0] for fact in gitlab.told() if fact[0] == "member" and fact[1] == 1} == set()
    gitlab.add("routes", 1012, source_type="Namespace", source_id=12, path="again")
    gitlab.mark("group", 12)
    assert types(gitlab.compare_dirty()) == ["group.set 3", "member.set 3"]


def test_members_go_with_their_project_and_come_back_with_it(gitlab: GitLab) -> None:
    gitlab.add("project_group_links", 1, project_id=7, group_id=12)
    gitlab.change("namespaces", 12, share_with_group_lock=0)
    gitlab.compare()
    gitlab.change("projects", 7, pending_delete=1)
    gitlab.mark("project", 7)
    assert gitlab.compare_dirty() == [Told("project.removed", "3", {"id": 7})]
    gitlab.change("projects", 7, pending_delete=0)
    gitlab.mark("project", 7)
    found = gitlab.compare_dirty()
    assert types(found) == ["project.set 3", "member.set 3", "member.set 3"]
    assert [told.data.get("via") for told in found] == [None, "m2", "p1/m1"]


def test_members_of_a_group_that_moves_are_told_anew_under_its_root(gitlab: GitLab) -> None:
    gitlab.change("namespaces", 12, parent_id=40)
    gitlab.mark("group", 12)
    assert types(gitlab.compare_dirty()) == ["group.set 40", "member.set 40", "group.removed 3"]


def test_a_member_of_a_group_that_stays_is_removed_one_by_one(gitlab: GitLab) -> None:
    gitlab.delete("members", 1)
    assert gitlab.compare() == [
        Told("member.removed", "3", {"user_id": 1, "group_id": 12, "via": "m1"})
    ]


def test_a_row_that_moves_to_another_group_leaves_the_former(gitlab: GitLab) -> None:
    gitlab.change("members", 1, source_id=3)
    new = {"user_id": 1, "group_id": 3, "role": 30, "via": "m1", "expires_at": None}
    old = {"user_id": 1, "group_id": 12, "via": "m1"}
    assert gitlab.compare() == [
        Told("member.set", "3", new), Told("member.removed", "3", old)
    ]  # fmt: skip
    gitlab.change("members", 1, source_id=7, source_type="Project")
    assert types(gitlab.compare()) == ["member.set 3", "member.removed 3"]


def test_a_row_of_another_user_ends_the_membership_of_the_first(gitlab: GitLab) -> None:
    gitlab.change("members", 1, user_id=2)
    found = gitlab.compare()
    assert types(found) == ["member.set 3", "member.removed 3"]
    assert [told.data["user_id"] for told in found] == [2, 1]


def test_a_new_row_of_the_same_user_is_another_membership(gitlab: GitLab) -> None:
    gitlab.delete("members", 1)
    gitlab.member(8, 1, 12)
    assert [(told.type, told.data["via"]) for told in gitlab.compare()] == [
        ("member.set", "m8"), ("member.removed", "m1")
    ]  # fmt: skip


# jobs


def test_a_job_that_leaves_its_root_is_finished_for_good(gitlab: GitLab) -> None:
    gitlab.change("projects", 7, namespace_id=40)
    assert gitlab.compare("job") == [Told("job.finished", "3", {"id": 9})]
    gitlab.change("users", 1, username="other")
    assert gitlab.compare("job") == []
    gitlab.change("projects", 7, namespace_id=12)
    assert gitlab.compare("job") == []
    gitlab.delete("p_ci_builds", 9)
    assert gitlab.compare("job") == []
    assert not [fact for fact in gitlab.told() if fact[0] == "job"]


@pytest.mark.parametrize("table", ["users", "projects"])
def test_a_job_without_its_user_or_project_is_finished_for_good(gitlab: GitLab, table: str) -> None:
    row_id = {"users": 1, "projects": 7}[table]
    row = gitlab.db.execute(f"SELECT * FROM {table} WHERE id = ?", [row_id]).fetchone()
    gitlab.delete(table, row_id)
    assert gitlab.compare("job") == [Told("job.finished", "3", {"id": 9})]
    gitlab.db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    assert gitlab.compare("job") == []


def test_a_job_that_ends_is_finished_and_forgotten(gitlab: GitLab) -> None:
    gitlab.delete("p_ci_builds", 9)
    assert gitlab.compare() == [Told("job.finished", "3", {"id": 9})]
    assert not [fact for fact in gitlab.told() if fact[0] == "job"]


def test_a_job_starts_again_with_what_has_changed_while_it_runs(gitlab: GitLab) -> None:
    gitlab.change("users", 1, username="renamed")
    gitlab.add("environments", 1, project_id=7, name="production", slug="prod", tier=0)
    gitlab.add("job_environments", 1, ci_job_id=9, expanded_environment_name="production")
    (started,) = gitlab.compare()
    assert (started.type, started.root) == ("job.started", "3")
    assert started.data["user"] == {"id": 1, "username": "renamed"}
    assert started.data["environment"]["slug"] == "prod"


# agents


def test_a_configuration_that_leaves_its_root_is_emptied_there(gitlab: GitLab) -> None:
    empty = {"id": 5, "config": {"ci_access": {"projects": [], "groups": []}}}
    gitlab.change("namespaces", 12, parent_id=40)
    found = gitlab.compare("agent.configured")
    assert [told.root for told in found] == ["3", "40"]
    assert found[0].data == empty
    assert gitlab.compare() == []
    gitlab.delete("cluster_agents", 5)
    assert gitlab.compare("agent") == [
        Told("agent.configured", "40", empty), Told("agent.removed", "40", {"id": 5})
    ]  # fmt: skip
    assert gitlab.compare() == []


def test_an_empty_configuration_is_told_only_where_there_was_another(gitlab: GitLab) -> None:
    gitlab.agent(6, 7)
    assert types(gitlab.compare()) == ["agent.set 3"]
    gitlab.delete("agent_group_authorizations", 1)
    assert types(gitlab.compare()) == ["agent.configured 3"]
    gitlab.grant(1, 5, group_id=12)
    assert types(gitlab.compare()) == ["agent.configured 3"]


# users


def test_a_user_once_told_stays_told(gitlab: GitLab) -> None:
    gitlab.change("users", 1, state="blocked")
    assert types(gitlab.compare("user")) == ["user.set *"]
    gitlab.change("users", 1, state="active", username="new")
    assert gitlab.compare("user") == [
        Told("user.set", "*", {"id": 1, "username": "new", "state": "active"})
    ]
    gitlab.change("users", 1, username="newer")
    assert [told.data["username"] for told in gitlab.compare("user")] == ["newer"]
    gitlab.delete("users", 1)
    assert gitlab.compare("user") == []
    assert [fact[0] for fact in gitlab.told() if fact[0] == "user"] == ["user"]


# refusals


def test_a_row_that_a_worker_would_refuse_counts_as_not_there(gitlab: GitLab) -> None:
    gitlab.change("members", 1, access_level=60)
    gitlab.change("cluster_agents", 5, name=f"x {TOKEN}")
    found = gitlab.compare()
    assert types(found) == ["agent.removed 3", "member.removed 3"]
    assert [(row.kind, row.id) for row in gitlab.refused] == [("member", 1), ("agent", 5)]
    assert [row.reason for row in gitlab.refused] == [
        "`data.role` must be at most 50", TOKEN_LIKE
    ]  # fmt: skip
    assert gitlab.compare() == []
    gitlab.change("members", 1, access_level=40)
    assert types(gitlab.compare()) == ["member.set 3"]


def test_a_group_that_a_worker_would_refuse_takes_its_members_along(gitlab: GitLab) -> None:
    gitlab.change("routes", 1012, path="")
    gitlab.mark("group", 12)
    assert types(gitlab.compare_dirty()) == ["group.removed 3"]
    gitlab.change("routes", 1012, path="x")
    gitlab.mark("group", 12)
    assert types(gitlab.compare_dirty()) == ["group.set 3", "member.set 3"]


@pytest.mark.parametrize("fault", ["", TOKEN, None])
def test_a_block_gets_through_whatever_the_user_is_called(
    gitlab: GitLab, fault: str | None
) -> None:
    gitlab.change("users", 1, state="blocked", username=fault)
    (block,) = gitlab.compare("user")
    assert block.data == {"id": 1, "username": "user-1", "state": "blocked"}
    assert gitlab.compare("user") == []
    gitlab.change("users", 1, state="active")
    assert gitlab.compare("user") == []  # still blocked: nobody may be called `user-1` by mistake
    gitlab.change("users", 1, username="good")
    (active,) = gitlab.compare("user")
    assert active.data == {"id": 1, "username": "good", "state": "active"}


@pytest.mark.parametrize("state", [TOKEN, ""])
def test_a_block_gets_through_whatever_its_state_is_called(gitlab: GitLab, state: str) -> None:
    gitlab.change("users", 1, state=state)
    (block,) = gitlab.compare("user")
    assert block.data == {"id": 1, "username": "user-1", "state": "blocked"}


def test_a_job_with_a_fault_starts_not_and_ends_if_it_ran(gitlab: GitLab) -> None:
    gitlab.job(10, 7, 1, commit_id=None)
    assert gitlab.compare() == []
    gitlab.change("users", 1, username="")
    assert gitlab.compare() == [Told("job.finished", "3", {"id": 9})]
    gitlab.change("users", 1, username="good")
    assert gitlab.compare("job") == []


@pytest.mark.parametrize(
    "config",
    ['{"a":' + "[" * 70 + "]" * 70 + "}", '{"a": 1e400}', '{"a": "' + "x" * 1_100_000 + '"}',
     '{"job_token": "x"}', f'{{"a": "{TOKEN}"}}'],
)  # fmt: skip
def test_a_configuration_that_a_worker_would_refuse_is_emptied(gitlab: GitLab, config: str) -> None:
    gitlab.change("agent_group_authorizations", 1, config=config)
    (emptied,) = gitlab.compare()
    assert emptied.data["config"] == {"ci_access": {"projects": [], "groups": []}}
    assert [row.kind for row in gitlab.refused] == ["configuration"]


def test_reasons_have_nothing_of_the_row(gitlab: GitLab) -> None:
    secret = "SECRET"
    configs = [
        f'{{"{secret}": 1e400}}', f'{{"{secret}` and `{secret}": 1e400}}',
        f'{{"job_token": "{secret}"}}', f'{{"{secret}-{TOKEN}": 1}}', f'{{"{secret}":{"[" * 99}'
        + "]" * 99 + "}",
    ]  # fmt: skip
    for config in configs:
        gitlab.change("agent_group_authorizations", 1, config=config)
        gitlab.compare()
    gitlab.change("cluster_agents", 5, name=f"{secret} {TOKEN}")
    gitlab.change("users", 1, username=f"{secret} {TOKEN}", state=f"{secret} {TOKEN}")
    gitlab.change("members", 1, access_level=secret)
    gitlab.compare()
    assert len(gitlab.refused) > len(configs)
    assert not [row for row in gitlab.refused if secret in row.reason or "glcbt" in row.reason]


def test_only_some_refusals_are_logged_and_none_has_contents(gitlab: GitLab) -> None:
    for row in range(100, 100 + 3 * acceptance.MAX_LOGGED):
        gitlab.agent(row, 7, name=f"SECRET {TOKEN}")
    with structlog.testing.capture_logs() as logs:
        gitlab.compare()
    assert len(gitlab.refused) == 3 * acceptance.MAX_LOGGED
    assert len(logs) == acceptance.MAX_LOGGED
    assert [logs[0][name] for name in ("kind", "id", "reason")] == ["agent", 100, TOKEN_LIKE]
    assert "SECRET" not in str(logs)


def test_a_defect_of_the_check_stops_no_other_event(
    gitlab: GitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("SECRET")

    monkeypatch.setattr("projector.gitlab.mapping.envelope.decode_event", failing)
    gitlab.delete("members", 1)
    gitlab.member(8, 1, 12)
    assert types(gitlab.compare()) == ["member.removed 3"]
    assert [row.reason for row in gitlab.refused] == ["internal error: RuntimeError"]


def test_an_export_has_all_that_was_told(gitlab: GitLab) -> None:
    gitlab.change("projects", 7, namespace_id=40)
    gitlab.compare()
    found = [(kind, root) for kind, root, _ in facts(gitlab.db)]
    assert sorted(found) == [
        ("agent.configured", "3"), ("agent.set", "40"),
        ("group.set", "3"), ("group.set", "3"), ("group.set", "40"),
        ("member.set", "3"), ("member.set", "40"), ("project.set", "40"), ("project.set", "40"),
    ]  # fmt: skip
