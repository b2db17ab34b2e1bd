"""The table of cases against the domain: the order between topics must not matter."""

from itertools import permutations
from random import Random
from typing import Any

import msgspec
import pytest

from projector.events.model import EVENT_TYPES, Topic
from tests.builders import NOW, digest
from tests.compat.table import SCHEMA, Case, Message, load
from tests.unit.domain.world import World

CASES = load()
LEVELS = {"developer": 30, "none": 0}
Order = tuple[Topic, ...] | int | None
INTERLEAVINGS = 20
ORDERS: list[Order] = [None, *permutations(Topic), *range(INTERLEAVINGS)]


def in_order(messages: list[Message], order: Order) -> list[Message]:
    """Return the events as written, topic by topic, or shuffled by a seed.

    The order within each topic is kept.
    """
    topics = [EVENT_TYPES[message["type"]].topic for message in messages]
    if order is None:
        return messages
    if isinstance(order, int):
        Random(order).shuffle(turns := list(topics))
    else:
        turns = sorted(topics, key=order.index)
    waiting = {topic: iter([m for m, t in zip(messages, topics, strict=True) if t is topic])
               for topic in Topic}  # fmt: skip
    return [next(waiting[topic]) for topic in turns]


def outcome(case: Case, order: Order) -> tuple[int, Any, str]:
    """Return the status and body for the case's token, and all complaints."""
    world = World(level=LEVELS[case.minimum_role])
    messages = in_order(case.messages(NOW / 1000), order)
    complaints = [reason for message in messages for reason in world.take(message) if reason]
    world.at(NOW + case.at * 1000)
    view = world.views[digest(case.token())]
    body = msgspec.json.decode(view.body) if view.body else None
    if view.expires_at <= world.now:
        return 401, None, " ".join(complaints)
    return view.status, body and case.own(body, set()), case.own_text(" ".join(complaints))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    for order in ORDERS:
        status, body, complaints = outcome(case, order)
        assert case.faults(status, body) == [], order
        reported = case.answer.get("reported", "")
        assert (reported in complaints) if reported else not complaints, (order, complaints)


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= 90


ANSWER: dict[str, Any] = {
    "allowed_agents": [{"id": 5, "config_project": {"id": 3}, "configuration": {}}],
    "job": {"id": 9},
    "pipeline": {"id": 1},
    "project": {"id": 7, "groups": []},
    "user": {"id": 1, "username": "root", "roles_in_project": []},
}


def with_configuration(**configuration: Any) -> dict[str, Any]:
    return ANSWER | {
        "allowed_agents": [ANSWER["allowed_agents"][0] | {"configuration": configuration}]
    }


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER | {"user": {"id": 1, "username": "", "roles_in_project": []}},
        ANSWER | {"environment": {"slug": "production"}},
        ANSWER | {"environment": {"slug": "production", "tier": ""}},
        ANSWER | {"job": {"id": 2**63}},
        ANSWER | {"allowed_agents": [{"id": 5, "configuration": {}}]},
        {name: part for name, part in ANSWER.items() if name != "pipeline"},
        with_configuration(id=7),
        with_configuration(access_as={}),
        with_configuration(accessAs={"ci_job": {}}),
        with_configuration(access_as={"ciJob": {}}),
        with_configuration(protectedBranchesOnly=True),
        with_configuration(access_as={"impersonate": {"username": "a", "groups": [""]}}),
        with_configuration(
            access_as={"impersonate": {"username": "a", "extra": [{"key": "k", "val": [""]}]}}
        ),
        with_configuration(access_as={"ci_user": {}}),
        with_configuration(access_as={"agent": {}, "ci_job": {}}),
        with_configuration(access_as={"ci_job": {}, "ciJob": None}),
        with_configuration(access_as={"impersonate": {"username": ""}}),
        with_configuration(default_namespace=1),
    ],
)
def test_the_schema_refuses_what_kas_refuses(answer: dict[str, Any]) -> None:
    assert SCHEMA.is_valid(ANSWER)
    assert not SCHEMA.is_valid(answer)
