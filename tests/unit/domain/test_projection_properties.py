"""A view is a function of the facts alone, with every interleaving, batching and repetition.

Hypothesis draws the events of a small company. They are delivered in any order that keeps each
topic's, in batches, repeated from any offset, while time passes. All written views are then
compared with an oracle that scans the events. If some events are broken at first and replayed
later, in any order, the result is that of the events at their original positions.
"""

import sys
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain.projection import Projection
from projector.domain.views import View, ViewId
from projector.events import replay_header
from projector.events.model import EVENT_TYPES, KafkaRecord, ReplayPosition, Topic
from tests import builders
from tests.builders import NOW, Message
from tests.oracle import Oracle
from tests.unit.domain.drawn import (
    BASE,
    LISTS,
    SETS,
    STARTS,
    answer,
    new_projection,
    numbered,
    schedule,
)


class Redis:
    """What the writes leave behind: the newest of each view, pointer and fact.

    A pointer replaces the record under the key of its job.
    """

    def __init__(self) -> None:
        self.views: dict[ViewId, View] = {}
        self.pointers: dict[ViewId, ViewId] = {}
        self.facts: dict[Any, bytes] = {}

    def write(self, projection: Projection, now: int) -> None:
        ids, pointers = projection.take_dirty(sys.maxsize)
        for view in projection.views(ids, now):
            self.views[view.id] = view
            self.pointers.pop(view.id, None)
            if view.id in pointers and view.is_current:
                self.pointers[ViewId(str(view.job))] = view.id
                self.views.pop(ViewId(str(view.job)), None)
        for key, fact in projection.take_fields().items():
            if fact is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = fact

    def copy(self) -> "Redis":
        copied = Redis()
        copied.views |= self.views
        copied.pointers |= self.pointers
        return copied

    def answers(self, now: int) -> dict[str, Any]:
        return {d: answer(view) for d, view in self.views.items() if view.expires_at > now}

    def of_job(self, id_: ViewId, now: int) -> Any:
        """What the signed tokens of a job get."""
        return self.answers(now).get(self.pointers.get(id_, id_))


def jobs(oracle: Oracle, now: int) -> dict[ViewId, Any]:
    """What signed tokens must get. Two jobs with one id and two digests are left out."""
    answers, found = oracle.views(now), {}
    for id_ in map(ViewId, "123"):
        of_id = {holder[:2] for holder in oracle.holders.values() if holder[1] == int(id_)}
        if id_ in oracle.holders:
            found[id_] = answers.get(id_)
        elif len(of_id) == 1 and not of_id & oracle.finished:
            found[id_] = answers.get(oracle.jobs[of_id.pop()])
    return found


@settings(max_examples=300, deadline=None)
@given(st.booleans(), LISTS, st.integers(0, 2**32))
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
    assert redis.answers(now) == expected
    for id_, due in jobs(Oracle(events, NOW), now).items():
        assert redis.of_job(id_, now) == due

    restored = new_projection()
    builders.restore(restored, redis.facts)
    assert {v.id: answer(v) for v in restored.all_views(now)} == expected

    later = now + 10_000
    for each in (projection, restored):
        each.advance(later)
        written = redis.copy()
        written.write(each, later)
        assert written.answers(later) == Oracle(events, NOW).views(later)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), LISTS, st.integers(0, 2**32))
def test_time_that_went_too_far_and_back_changes_nothing(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    """A wrong clock was believed for a while; the events behind it meet the same live jobs."""
    dice = Random(seed)
    messages = (BASE if with_base else []) + drawn
    records = list(schedule(numbered(messages), dice))
    at = dice.randint(0, len(records))
    right, wrong, redis = new_projection(), new_projection(), Redis()
    for record in records[:at]:
        right.apply(record)
        wrong.apply(record)
    right.advance(NOW)
    wrong.advance(NOW + 10**10, applied_until=NOW)
    redis.write(wrong, NOW + 10**10)
    for _ in wrong.judge_again():
        pass
    wrong.advance(NOW)
    redis.views = {view.id: view for view in wrong.all_views(NOW)}
    for now, later in ((NOW, records[at:]), (NOW + 10_000, [])):
        for record in later:
            right.apply(record)
            wrong.apply(record)
        right.advance(now)
        wrong.advance(now)
        redis.write(wrong, now)
        assert wrong.facts.live_tokens == right.facts.live_tokens
        assert redis.answers(now) == {v.id: answer(v) for v in right.all_views(now)}


def entity_of(message: Message) -> tuple[Any, ...]:
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
        if not sequenced.setdefault(entity_of(message), dice.random() < 0.5):
            numbered.append(message)
            continue
        ordered = entity_of(message)[0] in ("group", "project")
        sequence = position if ordered else dice.randint(0, 9)
        if token := message["data"].get("token_sha256"):
            sequence = of_token.setdefault(token, sequence)
        numbered.append(message | {"sequence": str(sequence)})
    return numbered


def with_decent_tokens(messages: list[Message]) -> list[Message]:
    """No view id with two jobs, and no digest again after another one of its job."""
    owners: dict[str, Any] = {}
    latest: dict[Any, str] = {}
    ended: set[str] = set()
    kept: list[Message] = []
    for message in messages:
        if message["type"] == "job.started":
            job, number = entity_of(message), str(message["data"]["id"])
            token = message["data"].get("token_sha256")
            if owners.setdefault(token or number, job) != job:
                continue
            if token and latest.setdefault(job, token) != token:
                if token in ended:
                    continue
                ended.add(latest[job])
                latest[job] = token
        kept.append(message)
    return kept


def broken_and_replayed(
    messages: list[Message], dice: Random
) -> tuple[dict[Topic, list[KafkaRecord]], dict[Topic, list[KafkaRecord]]]:
    """The records of a good world, and of one where some are broken and come later as replays."""
    good: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
    corrected: dict[Topic, list[KafkaRecord]] = {topic: [] for topic in Topic}
    waiting: list[KafkaRecord] = []

    def replay() -> None:
        original = waiting.pop(dice.randrange(len(waiting)))
        header = replay_header.encode_position(ReplayPosition(original.offset, original.timestamp))
        for _ in range(dice.choice([1, 1, 2])):
            records = corrected[original.topic]
            records.append(original._replace(offset=len(records), headers=(header,)))

    for message in messages:
        records = corrected[EVENT_TYPES[message["type"]].topic]
        record = builders.record(message, len(records))
        good[record.topic].append(record)
        is_broken = dice.random() < 0.4
        records.append(record._replace(value=b"{") if is_broken else record)
        if is_broken or dice.random() < 0.1:
            waiting.append(record)
        while waiting and dice.random() < 0.2:
            replay()
    while waiting:
        replay()
    return good, corrected


def live(projection: Projection, now: int) -> dict[str, Any]:
    """What every token gets that gets anything but 401."""
    views = {view.id: answer(view) for view in projection.all_views(now)}
    return {digest: answer for digest, answer in views.items() if answer != 401}


@settings(max_examples=500, deadline=None)
@given(st.booleans(), LISTS, st.integers(0, 2**32))
def test_replays_end_in_the_views_of_a_world_in_which_nothing_was_broken(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    dice = Random(seed)
    messages = with_decent_tokens((BASE if with_base else []) + drawn)
    good, corrected = broken_and_replayed(with_sequences(messages, dice), dice)
    expected, projection, redis = new_projection(), new_projection(), Redis()
    for topic in Topic:
        for record in good[topic]:
            expected.apply(record)
    for record in schedule(corrected, dice):
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
@given(
    st.booleans(), st.lists(SETS, max_size=30) | st.lists(STARTS, max_size=8), st.integers(0, 2**32)
)
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
    views = {view.id: answer(view) for view in projection.all_views(NOW)}
    assert views == Oracle({"as sent": sent}, NOW).views(NOW)
