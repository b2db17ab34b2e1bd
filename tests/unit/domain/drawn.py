"""Draws the events of a small company, and the order in which they arrive."""

from collections.abc import Iterator
from random import Random
from typing import Any

import orjson
from hypothesis import strategies as st

from projector.domain.projection import Policy, Projection
from projector.domain.views import View, ViewId
from projector.events.model import EVENT_TYPES, KafkaRecord, Topic
from tests import builders
from tests.builders import LATER, Message

PARTITION, PARTITIONS = 0, 1
ROOTS = st.sampled_from(["1", "1", "1", "2"])
GROUPS = st.integers(1, 4)
PROJECTS = st.integers(1, 3)
USERS = st.integers(1, 2)
JOBS = st.integers(1, 3)
ROLES = st.sampled_from(["guest", "reporter", "developer", "owner"])
SOON = "2027-01-15T08:00:05+00:00"  # five seconds after NOW
ENDS = st.sampled_from([None, LATER, SOON])
SCOPES = st.one_of(GROUPS.map(lambda g: {"group_id": g}), PROJECTS.map(lambda p: {"project_id": p}))
VIAS = st.sampled_from(["direct", "share:1"])


# The rest of an entry: most of it filters, some of it no client can read.
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "default_namespace": st.just("n"),
        "environments": st.sampled_from([[], ["review/*"], ["production", "*/1"], ["*"]]),
        "protected_branches_only": st.booleans(),
        "access_as": st.sampled_from(
            [{"agent": {}}, {"ci_job": {}}, {}, {"ci_user": {}}, {"agent": {}, "ci_job": {}}]
        ),
    },
)


PATHS = st.sampled_from(["p1", "P2", "p3"])
GROUP_PATHS = st.sampled_from(["g1", "G2", "g3"])


def entries(targets: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A list of grants, or null."""
    entry = st.builds(lambda target, rest: {"id": target} | rest, targets, FILTERS)
    return st.none() | st.lists(entry, max_size=3)


def environment(name: str | None) -> dict[str, str] | None:
    return {"name": name, "slug": "s", "tier": "t"} if name else None


def member_removed(user: int, scope: dict[str, int], via: str, root: str) -> Message:
    return builders.event("member.removed", {"user_id": user, "via": via, **scope}, root)


AGENTS = st.integers(1, 4)
# Of the base's shared agent 5. Only its configuration project is drawn.
SHARED_WITH: dict[str, Any] = {"projects": [{"id": "p2"}], "groups": [{"id": "G1"}]}


STARTS: st.SearchStrategy[Message] = st.builds(
    lambda job, project, user, token, ends, root, protected, place: builders.started(
        job, project, user, token=token and token.format(root, job), expires_at=ends, root=root,
        ref_protected=protected, environment=environment(place),
    ),
    JOBS, PROJECTS, USERS, st.sampled_from(["{}-{}", "{}-{}", None, None, "other", "another"]),
    st.sampled_from([LATER, SOON]), ROOTS, st.booleans(),
    st.sampled_from([None, "review/1", "production"]),
)  # fmt: skip


SETS: st.SearchStrategy[Message] = st.one_of(
    st.builds(builders.group, GROUPS, st.none() | GROUPS, path=GROUP_PATHS, root=ROOTS),
    st.builds(builders.project, PROJECTS, st.none() | GROUPS, path=PATHS, root=ROOTS),
    st.builds(
        lambda user, role, scope, via, ends, root: builders.member(
            user, role, **scope, via=via, expires_at=ends, root=root
        ),
        USERS, ROLES, SCOPES, VIAS, ENDS, ROOTS,
    ),
    st.builds(builders.user, USERS, st.sampled_from(["active", "blocked"]), root=ROOTS),
    st.builds(builders.agent, AGENTS, PROJECTS, root=ROOTS),
    st.builds(
        builders.configured, AGENTS, projects=entries(PROJECTS | PATHS),
        groups=entries(GROUPS | GROUP_PATHS), root=ROOTS,
    ),
    st.builds(
        builders.shared_agent, AGENTS, PROJECTS, projects=entries(PROJECTS | PATHS),
        groups=entries(GROUPS | GROUP_PATHS), root=ROOTS,
    ),
    PROJECTS.map(lambda project: builders.shared_agent(5, project, **SHARED_WITH, root="1")),
    st.builds(builders.shared, st.integers(3, 4), PROJECTS, FILTERS),
    STARTS,
)  # fmt: skip


ENDS_OF_JOBS = st.builds(builders.removed, st.just("job"), JOBS, root=ROOTS)


REMOVALS: st.SearchStrategy[Message] = st.one_of(
    st.builds(member_removed, USERS, SCOPES, VIAS, ROOTS),
    st.builds(
        builders.removed,
        st.sampled_from(["group", "project", "agent", "shared-agent", "job"]), st.integers(1, 5),
        root=ROOTS,
    ),
    st.builds(builders.removed, st.just("instance-agent"), st.integers(3, 4)),
)  # fmt: skip


EVENTS = st.one_of(SETS, SETS, REMOVALS)
# Starts alone, too: few of many events are starts of one job.
LISTS = st.lists(EVENTS, max_size=30) | st.lists(STARTS | ENDS_OF_JOBS, max_size=8)


# Without these events first, few drawn changes would affect a view.
BASE: list[Message] = [
    builders.group(1, root="1"),
    builders.group(2, 1, root="1"),
    builders.group(3, 2, root="1"),
    builders.project(1, 3, root="1"),
    builders.project(2, 2, root="1"),
    builders.member(1, "owner", group_id=1, root="1"),
    builders.member(2, "developer", project_id=1, expires_at=SOON, root="1"),
    builders.user(1, root="1"),
    builders.agent(1, 1, root="1"),
    builders.agent(2, 2, root="1"),
    builders.configured(
        2, projects=[{"id": "P1", "environments": ["review/*"]}], groups=[{"id": 1}], root="1"
    ),
    builders.agent(3, 3, root="1"),
    builders.project(3, 1, root="1"),
    builders.configured(
        3, groups=[{"id": "g3", "default_namespace": "near"}, {"id": 1}, {"id": 2}], root="1"
    ),
    builders.shared(4, 9),
    builders.shared_agent(1, 9, groups=[{"id": 2}], root="1"),
    builders.shared_agent(5, 9, **SHARED_WITH, root="1"),
    builders.started(1, 1, 1, token="1-1", root="1"),
    builders.started(2, 2, 1, token="1-2", root="1"),
    builders.started(3, 1, 2, token="1-3", root="1"),
]


def new_projection() -> Projection:
    return Projection(PARTITION, Policy(PARTITIONS, 30, 7 * 24 * 3600 * 1000))


def answer(view: View) -> Any:
    return (200, orjson.loads(view.body)) if view.status == 200 else int(view.status)


def numbered(messages: list[Message]) -> dict[Topic, list[KafkaRecord]]:
    feed = builders.Feed()
    topics: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
    for message in messages:
        topics[EVENT_TYPES[message["type"]].topic].append(feed(message))
    return topics


def schedule(topics: dict[Topic, list[KafkaRecord]], dice: Random) -> Iterator[KafkaRecord]:
    """Any interleaving that keeps each topic's order; now and then an old record once more."""
    order = [topic for topic in Topic for _ in topics[topic]]
    dice.shuffle(order)
    position = dict.fromkeys(Topic, 0)
    for topic in order:
        if dice.random() < 0.2:
            yield topics[topic][dice.randint(0, position[topic])]
        yield topics[topic][position[topic]]
        position[topic] += 1


def views_of(projection: Projection, now: int) -> dict[ViewId, View]:
    return {token: projection.view(token, now) for token in projection.facts.view_ids()}
