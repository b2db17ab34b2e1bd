"""Entities: every kind has a topic, and a membership ends with its expiry."""

from projector.domain.entities import ENTITY_KINDS, TOPIC_OF_KIND, Member, fields_of


def test_every_kind_of_entity_has_a_topic() -> None:
    assert TOPIC_OF_KIND.keys() == ENTITY_KINDS.keys()


def test_a_membership_is_in_force_before_its_expiry_only() -> None:
    assert Member(30).is_in_force(2**62)
    assert Member(30, expires_at=5).is_in_force(4)
    assert not Member(30, expires_at=5).is_in_force(5)


def test_the_fields_of_an_entity_have_also_what_its_fact_leaves_out() -> None:
    """An audit compares them: an expiry that only one side has is a difference."""
    assert fields_of(Member(30)) == {"level": 30, "expires_at": None}
