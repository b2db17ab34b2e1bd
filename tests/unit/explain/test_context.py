"""The events behind an explanation, and jobs without a fact."""

import pytest

from tests import builders
from tests.unit.explain.world import COMPANY, STARTED, World


def test_every_part_names_the_event_that_last_changed_it() -> None:
    configured = builders.configured(6, groups=[{"id": 12}])
    user = builders.user(1)
    world = World(*COMPANY, user, STARTED, configured)
    found = world.explain(6)
    group_3, group_12, project_7, project_8, member, _, agent_6 = COMPANY
    assert found.job is not None
    assert found.job.event == world.event(STARTED)
    assert found.project is not None
    assert found.project.event == world.event(project_7)
    assert [g.event for g in found.groups] == [world.event(group_12), world.event(group_3)]
    assert found.user is not None
    assert found.user.event == world.event(user)
    assert found.role is not None
    assert [m.event for m in found.role.memberships] == [world.event(member)]
    assert found.agent is not None
    assert found.agent.event == world.event(agent_6)
    assert found.agent.configuration_event == world.event(configured)
    assert found.agent.config_project_event == world.event(project_8)
    world.apply(agent_6)
    assert world.agent(6).event == world.event(agent_6)
    assert world.agent(6).event != found.agent.event


def test_the_end_of_a_job_and_the_removal_of_an_agent_name_their_events() -> None:
    finished, removed = builders.removed("job", 9), builders.removed("agent", 6)
    world = World(*COMPANY, STARTED, removed)
    assert world.agent(6).event == world.event(removed)
    world.apply(finished)
    found = world.explain()
    assert found.job is not None
    assert found.job.event == world.event(finished)
    assert found.sentence == "Job 9 gets 401: the job has finished"


def test_a_token_that_a_later_start_replaced_is_told_from_the_jobs_own() -> None:
    again = builders.started(9, 7, token="second")
    world = World(*COMPANY, STARTED, again)
    former = world.explain(token="token-9")
    assert (former.status, former.rule) == (401, "token_replaced")
    assert former.sentence == (
        "Job 9 gets 401: this token ended when the job started again with another one"
    )
    assert former.job is not None
    assert former.job.event == world.event(again)
    assert world.explain().status == 200
    finished = builders.removed("job", 9)
    world.apply(finished)
    former, current = world.explain(token="token-9"), world.explain()
    assert former.job is not None
    assert current.job is not None
    assert (former.job.event, current.job.event) == (world.event(again), world.event(finished))


def test_a_job_that_the_facts_do_not_know_is_an_error() -> None:
    with pytest.raises(KeyError):
        World(*COMPANY).explain()
