"""Facts by key, most memberships packed: no difference to a dict."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.domain import fact_keys
from projector.domain.entities import Entity, Group, Member
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact, Fact, encode_fact
from projector.domain.index.fact_table import FactTable

SCOPES = [fact_keys.group_key("1", 3), fact_keys.project_key("1", 3), fact_keys.group_key("2", 3)]
VIAS = ["direct", "share:1", "x/user:1/direct", "group:3/user:1/direct"]
KEYS = st.one_of(
    st.builds(
        fact_keys.member_key, st.sampled_from(SCOPES), st.sampled_from([1, 2, 2**70]),
        st.sampled_from([*VIAS, "direct"]),
    ),
    st.just(SCOPES[0]),
)  # fmt: skip
# Of all sizes: what does not fit is not packed.
NUMBERS = st.sampled_from([-1, 0, 1, 255, 256, 2**64 - 2, 2**64 - 1, 2**64])
MAYBE = st.none() | NUMBERS
POSITIONS: Any = st.tuples(NUMBERS, NUMBERS, MAYBE, MAYBE, MAYBE)
MEMBERS = st.none() | st.builds(Member, NUMBERS, MAYBE) | st.builds(Member, st.just(30))
GROUPS = st.none() | st.builds(Group, MAYBE, st.just("g"))


@st.composite
def facts(draw: st.DrawFn) -> tuple[Key, AnyFact]:
    key = draw(KEYS)
    offset, timestamp, sequence, sequence_offset, removal_offset = draw(
        POSITIONS | st.tuples(st.just(1), NUMBERS, MAYBE, st.none(), st.none())
    )
    data: Entity | None = draw(MEMBERS if fact_keys.MEMBER in key else GROUPS)
    return key, Fact(offset, timestamp, sequence, data, sequence_offset, removal_offset)


CHANGES = st.lists(
    st.one_of(facts(), KEYS, st.lists(facts(), max_size=4).map(dict)), max_size=40
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_it_is_as_a_dict_under_any_puts_deletes_and_loads(changes: list[Any]) -> None:
    table, model = FactTable(), dict[Key, AnyFact]()
    for change in changes:
        match change:
            case (key, fact):
                table[key] = model[key] = fact
            case dict():
                new = {key: fact for key, fact in change.items() if key not in model}
                _ = list(table.load({k.encode(): encode_fact(fact) for k, fact in new.items()}))
                model |= new
            case key if key in model:
                del table[key], model[key]
            case key:
                with pytest.raises(KeyError):
                    del table[key]
        _assert_alike(table, model)


def _assert_alike(table: FactTable, model: dict[Key, AnyFact]) -> None:
    assert dict(table.items()) == model
    assert len(table) == len(model)
    assert sorted(table) == sorted(model)
    for scope in SCOPES:
        for user in (1, 2, 3, 2**70):
            for via in VIAS:
                key = fact_keys.member_key(scope, user, via)
                assert table.get(key) == model.get(key)
                assert (key in table) == (key in model)
        packed = [key for key in model if key not in table.unpacked]
        within = [key for key in packed if fact_keys.membership_of(key)[0] == scope]
        assert sorted(table.packed.within(scope)) == sorted(within)


@settings(max_examples=300, deadline=None)
@given(st.lists(facts(), min_size=1, max_size=3))
def test_a_fact_is_packed_or_not_for_what_it_is_alone(states: list[tuple[Key, AnyFact]]) -> None:
    """So a loaded checkpoint has the same indexes as the facts had that it was written from."""
    key, fact = states[-1]
    put, loaded = FactTable(), FactTable()
    for before, state in states:
        if (fact_keys.MEMBER in before) == (fact_keys.MEMBER in key):
            put[key] = state
    _ = list(loaded.load({key.encode(): encode_fact(fact)}))
    assert list(put.unpacked) == list(loaded.unpacked)


def test_everyday_memberships_are_packed() -> None:
    key, table = fact_keys.member_key(SCOPES[0], 7, "direct"), FactTable()
    for sequence in (None, 0, 20_000_000_000_000_000):
        fact: AnyFact = Fact(5, 1_790_000_000_000, sequence, Member(50))
        table[key] = fact
        assert not table.unpacked
        assert table[key] == fact
        assert table.packed.of(SCOPES[0], 7) == (key, Member(50))
    table[key] = Fact(6, 1_790_000_000_000, None, Member(50, expires_at=1_800_000_000_000))
    assert list(table.unpacked) == [key]
    assert table.packed.of(SCOPES[0], 7) is None


@pytest.mark.parametrize(
    "field", ["1/member/group/user:1/direct", "1/member/group:3/user:x/direct"]
)
def test_a_field_with_a_broken_key_makes_the_checkpoint_unusable(field: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        _ = list(
            FactTable().load({field.encode(): b'{"offset":1,"timestamp":1,"data":{"level":1}}'})
        )
