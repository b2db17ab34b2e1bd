"""A view is a function of the facts alone: whatever the interleaving, batching and repetition.

Whole worlds are drawn, delivered in any order that keeps each topic's, cut into batches anywhere,
repeated from any offset, while time passes; what was written is then compared with an oracle that
reads the events the slow and obvious way. And where some events are broken at first and replayed
later, in any order, the end is the one that they would have led to at their place.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import evaluator, fact_keys, responses
from projector.domain.dirty_tokens import WritePriority
from projector.domain.projection import Policy, Projection, compute_view
from projector.domain.views import View
from projector.events import model as events
from projector.events import replay_header
from projector.events.model import EVENT_TYPES, KafkaRecord, ReplayPosition, Topic
from tests import builders
from tests.builders import LATER, NOW
from tests.oracle import Oracle

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

Message = dict[str, Any]


# What entries hold beside their target: most of it filters, some of it no client could read.
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


AGENTS = st.integers(1, 3)
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
    st.builds(builders.shared, st.integers(3, 4), PROJECTS, FILTERS),
    st.builds(
        lambda job, project, user, token, ends, root, protected, place: builders.started(
            job, project, user, token=token or f"{root}-{job}", expires_at=ends, root=root,
            ref_protected=protected, environment=environment(place),
        ),
        JOBS, PROJECTS, USERS, st.sampled_from([None, "other", "another"]),
        st.sampled_from([LATER, SOON]), ROOTS, st.booleans(),
        st.sampled_from([None, "review/1", "production"]),
    ),
)  # fmt: skip
REMOVALS: st.SearchStrategy[Message] = st.one_of(
    st.builds(member_removed, USERS, SCOPES, VIAS, ROOTS),
    st.builds(
        builders.removed,
        st.sampled_from(["group", "project", "agent", "job"]), st.integers(1, 4), root=ROOTS,
    ),
    st.builds(builders.removed, st.just("instance-agent"), st.integers(3, 4)),
)  # fmt: skip
EVENTS = st.one_of(SETS, SETS, REMOVALS)


# Without a world to begin with, hardly any drawn change would touch a view.
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
    builders.started(1, 1, 1, token="1-1", root="1"),
    builders.started(2, 2, 1, token="1-2", root="1"),
    builders.started(3, 1, 2, token="1-3", root="1"),
]


def new_projection() -> Projection:
    return Projection(PARTITION, Policy(PARTITIONS, 30, 7 * 24 * 3600 * 1000))


def said(view: View) -> Any:
    return (200, orjson.loads(view.body)) if view.status == 200 else int(view.status)


class Redis:
    """What the writes leave behind: the newest view of each token, the newest of each fact."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self.facts: dict[Any, bytes] = {}

    def write(self, projection: Projection, now: int) -> None:
        views, facts = builders.take_changes(projection, now)
        self.views |= {view.digest: view for view in views}
        for key, fact in facts.items():
            if fact is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = fact

    def copy(self) -> "Redis":
        copied = Redis()
        copied.views |= self.views
        return copied

    def says(self, now: int) -> dict[str, Any]:
        return {d: said(view) for d, view in self.views.items() if view.expires_at > now}


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


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(EVENTS, max_size=30), st.integers(0, 2**32))
def test_any_interleaving_batching_and_repetition_ends_in_the_views_from_scratch(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    messages = (BASE if with_base else []) + drawn
    dice = Random(seed)
    events = {
        topic: [m for m in messages if EVENT_TYPES[m["type"]].topic == topic] for topic in Topic
    }
    projection, redis, now = new_projection(), Redis(), NOW
    for record in schedule(numbered(messages), dice):
        projection.apply(record)
        if dice.random() < 0.3:
            now += dice.choice([0, 0, 1000, 4000])
            projection.advance(now)
            redis.write(projection, now)
    projection.advance(now)
    redis.write(projection, now)
    expected = Oracle(events, NOW).views(now)
    assert redis.says(now) == expected

    restored = new_projection()
    builders.restore(restored, redis.facts)
    assert {v.digest: said(v) for v in restored.all_views(now)} == expected

    later = now + 10_000
    for each in (projection, restored):
        each.advance(later)
        written = redis.copy()
        written.write(each, later)
        assert written.says(later) == Oracle(events, NOW).views(later)


def thing(message: Message) -> tuple[Any, ...]:
    """What the event is about; events of one thing share their sequence."""
    data, root = message["data"], message["partitionkey"]
    name = message["type"].split(".")[0]
    if name == "member":
        scope = (data.get("group_id"), data.get("project_id"))
        return name, root, *scope, data["user_id"], data.get("via")
    if name in ("user", "instance-agent"):
        return name, data["id"]
    return message["type"].removesuffix(".set").removesuffix(".removed"), root, data["id"]


def with_sequences(messages: list[Message], dice: Random) -> list[Message]:
    """Some things with sequences, in Kafka's order where memberships hang on the thing, or not.

    A token that is started again has the same one.
    """
    sequenced: dict[Any, bool] = {}
    of_token: dict[str, int] = {}
    numbered: list[Message] = []
    for position, message in enumerate(messages):
        if not sequenced.setdefault(thing(message), dice.random() < 0.5):
            numbered.append(message)
            continue
        ordered = thing(message)[0] in ("group", "project")
        sequence = position if ordered else dice.randint(0, 9)
        if token := message["data"].get("token_sha256"):
            sequence = of_token.setdefault(token, sequence)
        numbered.append(message | {"sequence": str(sequence)})
    return numbered


def with_decent_tokens(messages: list[Message]) -> list[Message]:
    """No digest with two jobs, and none that comes again after another one of its job."""
    owners: dict[str, Any] = {}
    latest: dict[Any, str] = {}
    kept: list[Message] = []
    for message in messages:
        if message["type"] == "job.started":
            token, job = message["data"]["token_sha256"], thing(message)
            if token in owners and (owners[token] != job or latest[job] != token):
                continue
            owners[token], latest[job] = job, token
        kept.append(message)
    return kept


def broken_and_replayed(
    messages: list[Message], dice: Random
) -> tuple[dict[Topic, list[KafkaRecord]], dict[Topic, list[KafkaRecord]]]:
    """The records of a good world, and of one where some are broken and come later as replays."""
    good: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
    mended: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
    waiting: list[KafkaRecord] = []

    def replay() -> None:
        original = waiting.pop(dice.randrange(len(waiting)))
        header = replay_header.encode_position(ReplayPosition(original.offset, original.timestamp))
        for _ in range(dice.choice([1, 1, 2])):
            there = mended[original.topic]
            there.append(original._replace(offset=len(there), headers=(header,)))

    for message in messages:
        there = mended[EVENT_TYPES[message["type"]].topic]
        record = builders.record(message, len(there))
        good[record.topic].append(record)
        is_broken = dice.random() < 0.4
        there.append(record._replace(value=b"{") if is_broken else record)
        if is_broken or dice.random() < 0.1:
            waiting.append(record)
        while waiting and dice.random() < 0.2:
            replay()
    while waiting:
        replay()
    return good, mended


def live(projection: Projection, now: int) -> dict[str, Any]:
    """What every token gets that gets anything but 401."""
    views = {view.digest: said(view) for view in projection.all_views(now)}
    return {digest: says for digest, says in views.items() if says != 401}


@settings(max_examples=500, deadline=None)
@given(st.booleans(), st.lists(EVENTS, max_size=30), st.integers(0, 2**32))
def test_replays_end_in_the_views_of_a_world_in_which_nothing_was_broken(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    dice = Random(seed)
    messages = with_decent_tokens((BASE if with_base else []) + drawn)
    good, mended = broken_and_replayed(with_sequences(messages, dice), dice)
    expected, projection, redis = new_projection(), new_projection(), Redis()
    for topic in Topic:
        for record in good[topic]:
            expected.apply(record)
    for record in schedule(mended, dice):
        projection.apply(record)
        if dice.random() < 0.1:
            redis.write(projection, NOW)
            projection = new_projection()
            builders.restore(projection, redis.facts)
    for now in (NOW, NOW + 10_000):
        expected.advance(now)
        projection.advance(now)
        assert live(projection, now) == live(expected, now)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(SETS, max_size=30), st.integers(0, 2**32))
def test_where_everything_has_a_sequence_and_nothing_is_removed_any_order_will_do(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    dice = Random(seed)
    messages = with_decent_tokens((BASE if with_base else []) + drawn)
    sent = [message | {"sequence": str(number)} for number, message in enumerate(messages)]
    projection = new_projection()
    for record in schedule(numbered(dice.sample(sent, len(sent))), dice):
        projection.apply(record)
    projection.advance(NOW)
    views = {view.digest: said(view) for view in projection.all_views(NOW)}
    assert views == Oracle({"as sent": sent}, NOW).views(NOW)


def allowed(view: View | None) -> set[str]:
    """The agents that the view allows, each with the entry that grants it."""
    if view is None or view.status != 200:
        return set()
    return {orjson.dumps(agent).decode() for agent in orjson.loads(view.body)["allowed_agents"]}


def views_of(projection: Projection, now: int) -> dict[str, View]:
    return {token: projection.view(token, now) for token in projection.facts.tokens()}


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**32))
def test_a_change_touches_every_view_that_it_changes_and_what_it_revokes_is_urgent(
    drawn: list[Message], seed: int
) -> None:
    projection, now = new_projection(), NOW
    before: dict[str, View] = {}
    for record in schedule(numbered(BASE + drawn), Random(seed)):
        projection.apply(record)
        after = views_of(projection, now)
        touched = projection.facts.dirty
        changed = {token for token, view in after.items() if view != before.get(token)}
        assert changed <= set(touched)
        urgent = {
            t for u in (WritePriority.ENDS, WritePriority.MAY_REVOKE) for t in touched._waiting[u]
        }
        lost = {t for t in changed if not allowed(before.get(t)) <= allowed(after[t])}
        assert lost <= urgent
        touched.clear()
        before = after


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**32))
def test_views_that_share_their_parts_are_those_computed_one_by_one(
    drawn: list[Message], seed: int
) -> None:
    projection, now, dice = new_projection(), NOW, Random(seed)
    for record in schedule(numbered(BASE + drawn), dice):
        projection.apply(record)
        if dice.random() < 0.2:
            now += dice.choice([1000, 6000])
            projection.advance(now)
        for token, view in views_of(projection, now).items():
            assert view == compute_view(projection.facts, token, 30, now)
            if view.status == 200:
                assert view.body == plainly(projection, token, now)


def plainly(projection: Projection, token: str, now: int) -> bytes:
    """The body as one encoding of one document: no part of it was written before."""
    facts, key = projection.facts, projection.facts.job_of_token(token)
    assert key is not None
    job, judgement = facts.job(key), evaluator.decide(facts, key, token, 30, now)
    assert job is not None
    user, levels = facts.user(job.user), {n: events.ROLES[n] for n in responses.NAMED_ROLES}
    winners = [c.effective for c in judgement.candidates if not c.refused_by]
    document: dict[str, Any] = {
        "allowed_agents": [
            {
                "id": way.agent,
                "config_project": {"id": way.config_project},
                "configuration": way.configuration,
            }
            for way in winners
        ],
        "job": {"id": fact_keys.id_of(key)},
        "pipeline": {"id": job.pipeline},
        "project": {"id": job.project, "groups": [{"id": group} for group in judgement.groups]},
        "user": {
            "id": job.user,
            "username": user.username if user else job.username,
            "roles_in_project": [n for n, level in levels.items() if level <= judgement.level],
        },
    }
    if job.environment:
        document["environment"] = {"slug": job.environment.slug, "tier": job.environment.tier}
    return msgspec.json.encode(document)
