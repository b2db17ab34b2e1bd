"""Order, sequences and replays: which event decides about an entity."""

from itertools import permutations
from typing import Any

import orjson
import pytest

from projector.domain.views import ViewId
from projector.events import replay_header
from projector.events.model import ReplayPosition
from tests import builders
from tests.builders import NOW, Message, digest
from tests.unit.domain.world import COMPANY, DAY, HIERARCHY, MEMBER_REMOVED, ReplayWorld, World

PRODUCTION = {"name": "production", "slug": "production", "tier": "production"}

# groups and projects


@pytest.mark.parametrize("kind", ["group", "project"])
def test_a_removed_group_or_project_takes_its_memberships_with_it(kind: str) -> None:
    """They do not come back with it; `set` has to bring them."""
    scope = {"group_id": 12} if kind == "group" else {"project_id": 7}
    again = builders.group(12, 3) if kind == "group" else builders.project(7, 12)
    number = 12 if kind == "group" else 7
    world = World(
        *HIERARCHY, builders.member(1, **scope), builders.agent(5, 7), builders.started(9, 7)
    )
    assert world.agents() == [5]
    world.take(builders.removed(kind, number), again)
    assert world.agents() == []


# jobs


def test_finished_is_final_in_any_order() -> None:
    world = World(*HIERARCHY, builders.removed("job", 9), builders.started(9, 7))
    assert world.status() == 401
    world.take(builders.started(9, 7), builders.started(9, 7, token="other"))
    assert (world.status(), world.status("other")) == (401, 401)


def test_a_cancelling_job_keeps_its_token() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.event("job.canceling", {"id": 9}))
    assert world.status() == 200


def test_a_second_start_ends_the_first_token_for_good() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.started(9, 7, token="second"))
    assert (world.status(), world.status("second")) == (401, 200)
    world.take(builders.started(9, 7))
    assert (world.status(), world.status("second")) == (401, 200)


def test_a_token_belongs_to_one_job() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    (complaint,) = world.take(builders.started(10, 7, token="token-9"))
    assert complaint
    assert "already belongs to job 9" in complaint
    assert world.body()["job"] == {"id": 9}


def test_a_token_lives_at_most_sixty_days() -> None:
    world = World(*HIERARCHY, builders.started(9, 7, expires_at="2099-01-01"))
    assert world.views[digest("token-9")].expires_at == NOW + 60 * DAY


# jobs without a digest


def test_a_job_without_a_digest_has_a_view_by_its_id() -> None:
    world = World(*COMPANY, builders.started(10, 7, token=None))
    assert world.status_of(10) == 200
    assert orjson.loads(world.views[ViewId("10")].body)["job"] == {"id": 10}
    world.take(builders.removed("job", 10))
    assert world.status_of(10) == 401
    world.take(builders.started(10, 7, token=None))
    assert (world.status_of(10), world.written) == (401, {})


def test_an_end_that_comes_before_the_start_without_a_digest_is_final() -> None:
    world = World(*HIERARCHY, builders.removed("job", 9), builders.started(9, 7, token=None))
    assert world.status_of(9) == 401


def test_a_start_without_a_digest_leaves_the_one_that_the_job_has() -> None:
    world = World(*HIERARCHY, builders.started(9, 7))
    world.take(builders.started(9, 7, token=None, environment=PRODUCTION))
    assert list(world.written) == [digest("token-9")]
    assert world.body()["environment"]["slug"] == "production"
    world.take(builders.removed("job", 9))
    assert world.status() == 401


def test_a_job_that_gets_a_digest_has_its_view_there() -> None:
    world = World(*HIERARCHY, builders.started(9, 7, token=None), builders.started(9, 7))
    assert list(world.projection.facts.view_ids()) == [digest("token-9")]
    assert world.status() == 200


def test_a_later_digest_ends_the_one_that_was_kept() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.started(9, 7, token=None))
    world.take(builders.started(9, 7, token="second"))
    assert (world.status(), world.status("second")) == (401, 200)


def test_an_older_start_gives_its_digest_to_a_job_without_one_and_no_more() -> None:
    world = ReplayWorld(*HIERARCHY)
    original = world.broken(builders.started(9, 7, environment=PRODUCTION))
    world.take(builders.started(9, 7, token=None))
    world.replay(original)
    assert (world.status(), "environment" in world.body()) == (200, False)
    world.take(builders.started(9, 7, token="second"))
    assert (world.status(), world.status("second")) == (401, 200)


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("is_restarted", [False, True])
def test_of_the_digests_of_older_starts_the_latest_counts(
    order: tuple[int, ...], is_restarted: bool
) -> None:
    world = ReplayWorld(*HIERARCHY)
    starts = [builders.started(9, 7, token=token) for token in ("first", "second", None, None)]
    originals = [world.broken(message) for message in starts]
    for number in order:
        world.replay(originals[number])
        if is_restarted:
            world.restart()
    assert (world.status("first"), world.status("second")) == (401, 200)


def test_a_finished_job_gets_the_digest_of_a_late_start_too() -> None:
    """Or its token would be unknown, and not dead."""
    world = World(*HIERARCHY, builders.started(9, 7, token=None), builders.removed("job", 9))
    world.take(builders.started(9, 7))
    assert list(world.projection.facts.view_ids()) == [digest("token-9")]
    assert world.status() == 401
    world.take(builders.started(9, 7, token="second"))
    assert (world.status(), world.status("second")) == (401, 401)


def test_a_job_without_a_digest_belongs_to_one_root_namespace() -> None:
    world = World(*HIERARCHY, builders.started(9, 7, token=None))
    (complaint,) = world.take(builders.started(9, 7, token=None, root="4"))
    assert complaint == (
        "job 9 already belongs to partitionkey 3; all events of a job have the same one"
    )
    assert list(world.projection.facts.view_ids()) == ["9"]


def test_a_job_with_a_digest_leaves_the_key_of_another_without_one_alone() -> None:
    world = World(*HIERARCHY, builders.started(9, 7, token=None))
    world.take(builders.started(9, 7, root="4"))
    assert not world.views[digest("token-9")].is_current
    world.take(builders.started(9, 7, token="second"), builders.started(9, 7, root="4"))
    assert world.projection.view(digest("token-9"), NOW).is_current


# sequences


def test_an_older_sequence_is_ignored_and_one_without_keeps_it() -> None:
    world = World(*HIERARCHY, builders.agent(5, 7), builders.started(9, 7))
    world.take(builders.member(1, "owner", group_id=3, sequence="10"))
    for late in ("9", "10"):
        world.take(builders.member(1, "guest", group_id=3, sequence=late))
        assert world.agents() == [5]
    world.take(builders.member(1, "guest", group_id=3))
    assert world.agents() == []
    world.take(builders.member(1, "owner", group_id=3, sequence="10"))
    assert world.agents() == []
    world.take(builders.member(1, "owner", group_id=3, sequence="11"))
    assert world.agents() == [5]


def test_a_late_set_does_not_bring_back_what_was_removed() -> None:
    world = World(
        *HIERARCHY, builders.agent(5, 7, sequence="1"), builders.removed("agent", 5, sequence="3")
    )
    world.take(
        builders.member(1, group_id=3), builders.started(9, 7), builders.agent(5, 7, sequence="2")
    )
    assert world.agents() == []


def test_where_all_have_sequences_the_highest_counts_also_in_a_replay() -> None:
    """The removal was the later one, though it came first: replayed, it must take effect."""
    world = ReplayWorld(*COMPANY)
    removal = world.broken(MEMBER_REMOVED | {"sequence": "5"})
    world.take(builders.member(1, group_id=12, sequence="3"))
    assert world.agents() == [5]
    world.replay(removal)
    assert world.agents() == []
    world.take(builders.member(1, group_id=12, sequence="4"))
    assert world.agents() == []


def test_a_replay_with_a_lower_sequence_changes_nothing() -> None:
    world = ReplayWorld(*COMPANY, builders.member(1, "guest", group_id=12, sequence="3"))
    original = world.broken(builders.member(1, group_id=12, sequence="2"))
    world.replay(original)
    assert world.agents() == []


def test_a_sequence_counts_though_its_event_was_outranked() -> None:
    world = ReplayWorld(*COMPANY)
    original = world.broken(builders.member(1, "guest", group_id=12, sequence="5"))
    world.take(builders.member(1, "reporter", group_id=12))
    world.replay(original)
    world.take(builders.member(1, group_id=12, sequence="5"))
    assert world.agents() == []
    world.take(builders.member(1, group_id=12, sequence="6"))
    assert world.agents() == [5]


# replays of memberships, groups and projects


def test_a_replay_takes_the_place_of_its_original() -> None:
    world = ReplayWorld(*COMPANY)
    original = world.broken(builders.member(1, group_id=12))
    assert world.replay(original) is None
    assert world.agents() == [5]
    world.replay(original)
    assert world.written == {}, "once more changes nothing"


@pytest.mark.parametrize("later", [builders.member(1, "guest", group_id=12), MEMBER_REMOVED])
def test_a_replay_never_overwrites_what_came_later(later: Message) -> None:
    world = ReplayWorld(*COMPANY)
    original = world.broken(builders.member(1, group_id=12))
    world.take(later)
    world.replay(original)
    assert world.agents() == []


def test_older_records_once_more_do_not_undo_a_replay() -> None:
    world = ReplayWorld(*COMPANY)
    older = world.feed(builders.member(1, group_id=12))
    world.projection.apply(older)
    original = world.broken(MEMBER_REMOVED)
    world.replay(original)
    world.projection.apply(older)
    world.write()
    assert world.agents() == []


@pytest.mark.parametrize("kind", ["group", "project"])
def test_a_replayed_removal_takes_only_the_memberships_from_before_it(kind: str) -> None:
    scope = {"group_id": 12} if kind == "group" else {"project_id": 7}
    number = 12 if kind == "group" else 7
    again = builders.group(12, 3) if kind == "group" else builders.project(7, 12)
    world = ReplayWorld(*COMPANY, builders.started(10, 7, 2), builders.member(1, **scope))
    original = world.broken(builders.removed(kind, number))
    world.take(again, builders.member(2, **scope))
    assert (world.agents(), world.agents("token-10")) == ([5], [5])
    world.replay(original)
    assert (world.agents(), world.agents("token-10")) == ([], [5])


@pytest.mark.parametrize("known", [True, False], ids=["known before", "never known"])
@pytest.mark.parametrize("kind", ["group", "project"])
def test_a_membership_from_before_a_removal_does_not_come_to_life(kind: str, known: bool) -> None:
    """Also when the group or project was set again since, and after a restart."""
    scope = {"group_id": 12} if kind == "group" else {"project_id": 7}
    again = builders.group(12, 3) if kind == "group" else builders.project(7, 12)
    world = ReplayWorld(*COMPANY)
    if known:
        world.take(builders.member(1, "guest", **scope))
    original = world.broken(builders.member(1, **scope))
    world.take(builders.removed(kind, 12 if kind == "group" else 7), again, again)
    world.restart()
    world.replay(original)
    world.take(builders.user(1))
    assert world.status() == 200
    assert world.agents() == []
    world.take(builders.member(1, **scope))
    assert world.agents() == [5]


@pytest.mark.parametrize("sequence", [{}, {"sequence": "7"}])
@pytest.mark.parametrize("mended_sequence", [{}, {"sequence": "7"}, {"sequence": "8"}])
def test_a_mended_replay_replaces_what_counted_of_its_original(
    sequence: dict[str, str], mended_sequence: dict[str, str]
) -> None:
    """The original was applied, but for the entry that KAS could not read."""

    def configured(*projects: dict[str, Any], **more: Any) -> dict[str, Any]:
        config = {"ci_access": {"projects": list(projects)}}
        return builders.event("agent.configured", {"id": 5, "config": config}, **more)

    world = World(
        *HIERARCHY, builders.project(8, 12), builders.agent(5, 8), builders.member(1, group_id=3)
    )
    original = world.feed(configured({"id": 7, "access_as": {}}, **sequence))
    assert "does not count" in (world.projection.apply(original) or "")
    header = replay_header.encode_position(ReplayPosition(original.offset, original.timestamp))
    mended = world.feed(configured({"id": 7, "access_as": {"agent": {}}}, **mended_sequence))
    for record in (mended._replace(headers=(header,)), original):
        world.projection.apply(record)
    world.take(builders.started(9, 7))
    assert world.agents() == [5]
    world.take(configured(sequence="9"))
    world.projection.apply(mended._replace(offset=mended.offset + 9, headers=(header,)))
    world.write()
    assert world.agents() == [], "a replay never overwrites what came later"


# replays of jobs


def test_a_replayed_start_never_displaces_a_later_one() -> None:
    world = ReplayWorld(*HIERARCHY)
    original = world.broken(builders.started(9, 7, token="first"))
    world.take(builders.started(9, 7, token="second"))
    world.replay(original)
    assert (world.status("first"), world.status("second")) == (401, 200)
    world.take(builders.removed("job", 9))
    assert (world.status("first"), world.status("second")) == (401, 401)


def test_a_replayed_start_in_between_ends_the_token_before_it() -> None:
    world = ReplayWorld(*HIERARCHY, builders.started(9, 7, token="first"))
    original = world.broken(builders.started(9, 7, token="second"))
    world.replay(original)
    assert (world.status("first"), world.status("second")) == (401, 200)


@pytest.mark.parametrize("token", ["first", "second"])
def test_a_replayed_start_of_a_finished_job_starts_nothing(token: str) -> None:
    world = ReplayWorld(*HIERARCHY, builders.started(9, 7, token="first"))
    original = world.broken(builders.started(9, 7, token=token))
    world.take(builders.removed("job", 9))
    world.replay(original)
    assert (world.status("first"), world.status(token)) == (401, 401)


def test_a_replayed_end_is_final_though_starts_came_later() -> None:
    world = ReplayWorld(*HIERARCHY)
    original = world.broken(builders.removed("job", 9))
    world.take(builders.started(9, 7))
    world.replay(original)
    assert world.status() == 401
    world.take(builders.started(9, 7, token="second"))
    assert world.status("second") == 401


def test_a_replayed_token_lives_from_its_original_on() -> None:
    world = ReplayWorld(*HIERARCHY)
    original = world.broken(builders.started(9, 7, expires_at="2099-01-01"))
    world.replay(original, timestamp=NOW + DAY)
    (view,) = world.written.values()
    assert view.expires_at == NOW + 60 * DAY
