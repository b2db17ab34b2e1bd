"""Live jobs: those that have started and neither finished nor expired."""

from projector.domain import fact_keys
from projector.domain.entities import Entity, Group, Job, Project
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, Fact
from projector.domain.index.live_job_index import LiveJobIndex
from tests import builders
from tests.builders import NOW
from tests.unit.domain.world import World


def test_live_tokens_are_those_of_jobs_that_run() -> None:
    world = World()
    world.take(
        builders.project(7),
        builders.started(9, 7),
        builders.started(10, 7),
        builders.started(11, 7),
    )
    assert world.projection.facts.live_tokens == 3
    world.take(builders.started(10, 8, token="another"), builders.removed("job", 9))
    assert world.projection.facts.live_tokens == 2
    world.take(builders.removed("job", 9), builders.removed("job", 99))
    assert world.projection.facts.live_tokens == 2
    world.at(NOW + 10**10)
    assert world.projection.facts.live_tokens == 0


PROJECT, TOP, MIDDLE = Key("3/project/7"), Key("3/group/3"), Key("3/group/12")
JOB, OTHER_JOB = fact_keys.job_key("3", 9), fact_keys.job_key("3", 10)


def job(project: int = 7, user: int = 1) -> Job:
    return Job("0" * 64, project, 1, user, "root", ref_protected=False, expires_at=1)


def fact(data: Entity) -> AnyFact:
    return Fact(0, 0, data=data)


def test_a_busy_project_is_linked_to_all_groups_above_it_known_or_not() -> None:
    facts = {PROJECT: fact(Project(12, "p")), MIDDLE: fact(Group(3, "g"))}
    index = LiveJobIndex(facts)
    index.add(JOB, job())
    index.add(OTHER_JOB, job(project=8))
    for scope in (PROJECT, MIDDLE, TOP):
        assert list(index.in_scope(scope)) == [JOB]
        assert index.is_in_scope(PROJECT, scope)
    assert not index.is_in_scope(Key("3/project/8"), TOP)
    assert index.linked_projects(TOP) == index.linked_projects(PROJECT) == [PROJECT]
    assert {*index} == {JOB, OTHER_JOB}


def test_a_moved_project_is_linked_to_its_new_groups_only() -> None:
    facts = {PROJECT: fact(Project(12, "p"))}
    index = LiveJobIndex(facts)
    index.add(JOB, job())
    linked = index.linked_projects(PROJECT)
    index.unlink(linked)
    facts[PROJECT] = fact(Project(3, "p"))
    index.link(linked)
    assert (list(index.in_scope(MIDDLE)), list(index.in_scope(TOP))) == ([], [JOB])


def test_the_last_job_of_a_project_and_of_a_user_leaves_nothing_behind() -> None:
    index = LiveJobIndex({PROJECT: fact(Project(12, "p"))})
    index.add(JOB, job())
    index.add(OTHER_JOB, job(user=2))
    index.discard(JOB, job())
    index.discard(JOB, job())
    assert (len(index), index.is_busy(PROJECT)) == (1, True)
    assert (list(index.of_user(1)), list(index.of_user(2))) == ([], [OTHER_JOB])
    index.discard(OTHER_JOB, job(user=2))
    assert (len(index), index.is_busy(PROJECT), index.busy_projects()) == (0, False, [])
    assert not any((index._jobs_of_project, index._jobs_of_user, index._busy_projects))
