"""Memberships by scope and user."""

from projector.domain import fact_keys
from projector.domain.projection import Policy, Projection
from tests import builders
from tests.unit.domain.world import RETENTION, World


def test_a_membership_may_come_from_anywhere() -> None:
    """`via` is any text: also one that looks like the key around it."""
    vias = ["direct", "x/user:2/y", "/member/", "group:3/user:1/direct"]
    scope = fact_keys.group_key("1", 3)
    world = World(
        *(builders.member(1, group_id=3, via=via, root="1") for via in vias),
        builders.member(1, project_id=3, root="1"),
    )
    loaded = Projection(0, Policy(1, 30, RETENTION))
    builders.restore(loaded, world.projection.fields())
    for facts in (world.projection.facts, loaded.facts):
        assert {fact_keys.via_of(key) for key, _ in facts.memberships(scope, 1)} == {*vias}
        assert sorted(facts.membership_keys(scope)) == sorted(
            fact_keys.member_key(scope, 1, via) for via in vias
        )
    for via in vias[1:]:
        left = {"user_id": 1, "group_id": 3, "via": via}
        world.take(builders.event("member.removed", left, "1"))
    loaded = Projection(0, Policy(1, 30, RETENTION))
    builders.restore(loaded, world.projection.fields())
    assert loaded.facts._memberships._scopes == world.projection.facts._memberships._scopes
