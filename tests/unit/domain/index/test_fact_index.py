"""The indexes of facts: they follow the facts, and do not grow."""

import gc
import weakref
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import fact_keys
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, decode_fact
from projector.domain.index.fact_index import FactIndex
from projector.domain.index.packed_memberships import PackedMemberships
from projector.domain.projection import Policy, Projection
from tests import builders
from tests.builders import NOW, Message
from tests.compat.table import Case, load
from tests.unit.domain.drawn import (
    BASE,
    ENDS,
    EVENTS,
    VIAS,
    member_removed,
    new_projection,
    numbered,
    schedule,
)
from tests.unit.domain.world import RETENTION, World

CASES = load()
# A sequence decides which event is newer, and its place whether a membership is packed.
SEQUENCES: Any = st.sampled_from([{}, {}, *({"sequence": str(n)} for n in range(4))])
SEEDS = st.integers(0, 2**32)
SEQUENCED = st.builds(dict.__or__, EVENTS, SEQUENCES)


def indexes(facts: FactIndex) -> dict[str, Any]:
    parts = (facts, facts._memberships, facts._grants, facts._live_jobs)
    others = {"_facts", "dirty", "scope_version", "role_version", "_affected_jobs"}
    found = {name: index for part in parts for name, index in vars(part).items()}
    return {name: found[name] for name in found if name not in others and found[name] not in parts}


def world_of(case: Case) -> World:
    return World(*case.messages(NOW / 1000))


def ending(key: Key) -> Message | None:
    """The event that removes the entity, or as much of it as possible."""
    root, kind = fact_keys.root_of(key), fact_keys.kind_of(key)
    root = "1" if root == "*" else root
    match kind:
        case "member":
            scope, user = fact_keys.membership_of(key)
            data = {"user_id": user, "via": key.split("/", 4)[4]}
            data[f"{fact_keys.kind_of(scope)}_id"] = fact_keys.id_of(scope)
            return builders.event("member.removed", data, root)
        case "configuration":
            data = {"id": fact_keys.id_of(key), "config": {}}
            return builders.event("agent.configured", data, root)
        case "user" | "token":
            return None
    return builders.removed(kind, fact_keys.id_of(key), root=root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_when_all_is_removed_the_indexes_are_empty(case: Case) -> None:
    world = world_of(case)
    facts = world.projection.facts
    endings = [ending(key) for key, fact in facts.items() if fact.data is not None]
    world.take(*filter(None, endings))
    world.at(NOW + 61 * RETENTION)
    assert not any(indexes(facts).values()), indexes(facts)
    assert {fact_keys.kind_of(key) for key, _ in facts.items()} <= {"user", "configuration"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_indexes_are_those_of_the_facts_alone(case: Case) -> None:
    """They do not depend on earlier facts: a restored projection has the same."""
    world = world_of(case)
    sequences: list[Message] = [{}, {"sequence": "1"}, {}, {"sequence": "2"}, {"sequence": "1"}]
    for sequence in sequences:
        world.take(*(message | sequence for message in case.messages(NOW / 1000)))
        restored = Projection(0, Policy(1, 30, RETENTION))
        builders.restore(restored, world.projection.fields())
        assert indexes(restored.facts) == indexes(world.projection.facts)


def test_facts_are_freed_without_the_garbage_collector() -> None:
    """Millions of facts of a partition that moved away must not wait for a full collection."""
    facts = world_of(CASES[0]).projection.facts
    freed = weakref.ref(facts)
    gc.disable()
    try:
        del facts
        assert freed() is None
    finally:
        gc.enable()


# a checkpoint


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.lists(SEQUENCED, max_size=30), SEEDS)
def test_a_checkpoint_loads_in_any_order_as_if_put_one_by_one(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    """Also in parts that repeat each other, and after some facts were dropped or have expired."""
    dice, world, feed = Random(seed), new_projection(), builders.Feed()
    for message in (BASE if with_base else []) + drawn:
        world.apply(feed(message))
    for now in (NOW, NOW + 10_000, NOW + RETENTION, NOW + 61 * RETENTION):
        world.advance(now)
        fields = world.fields()
        loaded, put = new_projection(), new_projection()
        builders.restore(loaded, *_parts(fields, dice))
        for key in dice.sample(list(fields), len(fields)):
            fact = decode_fact(key, fields[key])
            _ = list(put.facts.put(key, fact))
            put._note_changed(key, fact)
        assert not loaded.facts.dirty
        _assert_alike(loaded, put)
        for each in (loaded, put):
            each.advance(now + 10_000)
        _assert_alike(loaded, put)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(SEQUENCED, max_size=40), SEEDS)
def test_a_history_is_taken_in_as_if_its_events_were_applied_one_by_one(
    with_base: bool, drawn: list[Message], seed: int
) -> None:
    """From the beginning of the topics, or behind a checkpoint; with the same dead letters."""
    dice = Random(seed)
    records = list(schedule(numbered((BASE if with_base else []) + drawn), dice))
    records = [r._replace(value=b"{") if dice.random() < 0.05 else r for r in records]
    cut = dice.choice([0, dice.randint(0, len(records))])
    live, recovered = new_projection(), new_projection()
    for record in records[:cut]:
        live.apply(record)
    if cut:
        live.advance(NOW)
    live.take_fields()
    recovered.begin_history()
    for part in _parts(live.fields(), dice):
        _ = list(recovered.load({key.encode(): raw for key, raw in part.items()}))
    for record in records[cut:]:
        assert recovered.apply(record) == live.apply(record)
    assert not recovered.facts.dirty
    _ = list(recovered.settle())
    for now in (NOW, NOW + 10_000, NOW + 61 * RETENTION):
        for each in (live, recovered):
            each.advance(now)
        _assert_alike(live, recovered)
        assert sorted(live.all_views(now)) == sorted(recovered.all_views(now))
        assert live.take_fields() == recovered.take_fields()


class Unpacked(PackedMemberships):
    """No memberships: all are left to the plain dict of facts."""

    def put(self, _key: Key, _fact: AnyFact) -> bool:
        return False


SCOPES_OF_MEMBERS = st.sampled_from([{"group_id": 1}, {"group_id": 3}, {"project_id": 1}])
# Few keys: whatever decides whether a membership is packed changes often.
MEMBERSHIPS = st.one_of(
    st.builds(
        lambda role, scope, via, ends: builders.member(
            1, role, **scope, via=via, expires_at=ends, root="1"
        ),
        st.sampled_from(["guest", "owner"]), SCOPES_OF_MEMBERS, VIAS, st.none() | ENDS,
    ),
    st.builds(member_removed, st.just(1), SCOPES_OF_MEMBERS, VIAS, st.just("1")),
    st.sampled_from(
        [
            builders.group(3, 2, root="1"), builders.removed("group", 3, root="1"),
            builders.project(1, 3, root="1"), builders.removed("project", 1, root="1"),
        ]
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(dict.__or__, MEMBERSHIPS, SEQUENCES), max_size=20), SEEDS)
def test_memberships_are_as_if_none_were_packed(drawn: list[Message], seed: int) -> None:
    """By the index, in the views, and in what a removed group or project leaves."""
    live, history, plain = new_projection(), new_projection(), new_projection()
    plain.facts._facts.packed = Unpacked()
    history.begin_history()
    for record in schedule(numbered(BASE + drawn), Random(seed)):
        faults = {each.apply(record) for each in (live, history, plain)}
        assert len(faults) == 1
        assert _memberships(live) == _memberships(history) == _memberships(plain)
        assert sorted(live.all_views(NOW)) == sorted(plain.all_views(NOW))
    _ = list(history.settle())
    for now in (NOW, NOW + 10_000, NOW + 61 * RETENTION):
        for each in (live, history, plain):
            each.advance(now)
        assert live.fields() == history.fields() == plain.fields()
        assert _memberships(live) == _memberships(history) == _memberships(plain)
        views = [sorted(each.all_views(now)) for each in (live, history, plain)]
        assert views == [views[0]] * 3


def _memberships(projection: Projection) -> dict[Key, Any]:
    scopes = [
        fact_keys.group_key("1", 1),
        fact_keys.group_key("1", 3),
        fact_keys.project_key("1", 1),
    ]
    return {scope: sorted(projection.facts.memberships(scope, 1), key=str) for scope in scopes}


def _parts(fields: dict[Key, bytes], dice: Random) -> Iterator[dict[Key, bytes]]:
    keys = dice.sample(list(fields), len(fields))
    while keys:
        size = dice.randint(1, len(keys))
        again = dice.sample(list(fields), dice.randint(0, 3)) if len(fields) > 3 else []
        yield {key: fields[key] for key in [*keys[:size], *again]}
        keys = keys[size:]


def _assert_alike(one: Projection, other: Projection) -> None:
    assert dict(one.facts.items()) == dict(other.facts.items())
    assert indexes(one.facts) == indexes(other.facts)
    assert one._timers._due == other._timers._due
