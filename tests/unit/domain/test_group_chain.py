"""Chains of groups that are circular, or too long."""

from projector.domain.group_chain import MAX_DEPTH
from tests import builders
from tests.unit.domain.world import HIERARCHY, World


def test_a_chain_in_a_circle_is_not_known_and_hangs_nobody() -> None:
    world = World(*HIERARCHY, builders.started(9, 7), builders.group(3, 12))
    assert world.status() == 503
    world.take(builders.group(3))
    assert world.status() == 200


def test_a_chain_of_groups_beyond_all_reason_is_not_known() -> None:
    chain = [builders.group(n, n + 1) for n in range(100, 100 + 2 * MAX_DEPTH)]
    world = World(*chain, builders.project(7, 100), builders.started(9, 7))
    assert world.status() == 503
