"""A fact in the checkpoint: short, and readable from older versions."""

import msgspec
import pytest

from projector.domain.fact_keys import Key
from projector.domain.facts import decode_fact, encode_fact, is_same_json
from tests import builders
from tests.builders import NOW
from tests.unit.domain.world import World


def test_facts_of_older_checkpoints_can_be_read() -> None:
    key = Key("3/group/12")
    fact = decode_fact(key, b'{"offset":4,"timestamp":5,"sequence":6}')
    assert (fact.last_removal, fact.sequenced_at) == (4, 4)
    fact = decode_fact(key, b'{"offset":4,"timestamp":5,"data":{"parent":null,"path":"a"}}')
    assert fact.last_removal < 0


def test_a_job_s_fact_has_the_start_of_its_digest_only_if_that_is_another() -> None:
    key, world = Key("3/job/9"), World(builders.started(9, 7))
    older = msgspec.json.decode(world.projection.fields()[key])["data"]
    assert list(older) == [
        "digest", "project", "pipeline", "user", "username", "ref_protected", "expires_at"
    ]  # fmt: skip
    world.take(builders.started(9, 7, token=None))
    raw = world.projection.fields()[key]
    assert msgspec.json.decode(raw)["data"] == older | {"digest_start": {"offset": 0}}
    assert encode_fact(decode_fact(key, raw)) == raw


def test_a_fact_says_no_more_than_it_must() -> None:
    world = World(builders.group(12, sequence="1"), builders.removed("group", 12, sequence="2"))
    key = Key("3/group/12")
    (fact,) = [fact for name, fact in world.projection.facts.items() if name == key]
    assert encode_fact(fact) == b'{"offset":1,"timestamp":%d,"sequence":2}' % NOW
    world.take(builders.group(12))
    (fact,) = [fact for name, fact in world.projection.facts.items() if name == key]
    assert (fact.last_removal, fact.sequence, fact.sequenced_at) == (1, 2, 1)


@pytest.mark.parametrize(("one", "other"), [(0, False), (1, True), (1, 1.0), ([0], [False])])
def test_values_that_python_alone_takes_for_equal_are_not_the_same_json(
    one: object, other: object
) -> None:
    assert one == other
    assert not is_same_json(one, other)
    assert is_same_json({"x": one}, {"x": one})
