"""The findings of an audit in words."""

from typing import Any

import pytest

from projector.cli.display.audit_sentences import as_text
from projector.domain.entities import TOPIC_OF_KIND
from projector.domain.fact_keys import Key, kind_of
from projector.operators.audit.comparison import AuditFinding, FactMismatch, may_grant_more
from projector.operators.audit.run import FieldValues, FindingRow
from tests import builders
from tests.unit.operators.audit.audited_partition import AuditedPartition


def row(key: str, what: FactMismatch, fields: dict[str, tuple[Any, Any]], line: int | None) -> str:
    return as_text(
        FindingRow(
            partition=1, key=key, what=what, line=line, topic=TOPIC_OF_KIND[kind_of(Key(key))],
            fields={name: FieldValues(*values) for name, values in fields.items()},
            offset=None, timestamp=None, sequence=None, over_grant=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "fields", "text"),
    [
        ("3/member/project:12/user:4/direct", {"level": (40, 20)},
         "user 4 in project 12: maintainer here, reporter in the export (line 27)"),
        ("3/member/group:1/user:4/link:7", {"level": (0, 20), "expires_at": (None, 0)},
         "user 4 in group 1 via link:7: level 0 here, reporter in the export; expires_at none "
         "here, 1970-01-01T00:00:00.000+00:00 in the export (line 27)"),
        ("3/job/9", {"finished": (True, False)},
         "job 9: finished yes here, no in the export (line 27)"),
        ("*/user/4", {"state": ("active", "blocked")},
         "user 4: state active here, blocked in the export (line 27)"),
        ("3/configuration/5", {"groups": ([], [{"id": "a"}])},
         "the configuration of agent 5: groups [] here, [{'id': 'a'}] in the export (line 27)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_difference_names_the_entity_and_both_sides(
    key: str, fields: dict[str, tuple[Any, Any]], text: str
) -> None:
    assert row(key, FactMismatch.DIFFERENT, fields, 27) == f"different: {text}"


@pytest.mark.parametrize(
    ("key", "what", "fields", "over_grant"),
    [
        ("3/member/group:1/user:4/direct", "different", {"level": (40, 20)}, True),
        ("3/member/group:1/user:4/direct", "different", {"level": (20, 40)}, False),
        ("3/member/group:1/user:4/direct", "different", {"expires_at": (None, 5)}, True),
        ("3/member/group:1/user:4/direct", "different", {"expires_at": (5, None)}, False),
        ("3/member/group:1/user:4/direct", "extra", {}, True),
        ("3/member/group:1/user:4/direct", "missing", {}, False),
        ("3/group/1", "extra", {}, False),
        ("3/group/1", "different", {"path": ("a", "b")}, False),
        ("3/job/9", "different", {"finished": (False, True)}, True),
        ("3/job/9", "different", {"finished": (True, False)}, False),
        ("*/user/4", "different", {"state": ("active", "blocked")}, True),
        ("*/user/4", "different", {"state": ("blocked", "active")}, False),
        ("3/configuration/5", "different", {"groups": ([], [])}, True),
        # An old place, an old user, an old token.
        ("3/project/7", "different", {"group": (3, None)}, True),
        ("3/project/7", "different", {"group": (None, 3)}, False),
        ("3/group/4", "different", {"parent": (3, 5)}, True),
        ("3/agent/5", "different", {"project": (7, 8)}, True),
        ("3/job/9", "different", {"user": (1, 2)}, True),
        ("3/job/9", "different", {"project": (7, 8)}, True),
        ("3/job/9", "different", {"digest": ("a", "b")}, True),
        ("3/job/9", "different", {"digest": (None, "b")}, False),
        ("3/job/9", "different", {"username": ("a", "b"), "pipeline": (1, 2)}, False),
        ("3/job/9", "different", {"field_of_a_later_version": (1, 2)}, True),
    ],
)
def test_an_over_grant_is_what_the_facts_may_grant_beyond_the_export(
    key: str, what: str, fields: dict[str, tuple[Any, Any]], over_grant: bool
) -> None:
    finding = AuditFinding(1, Key(key), FactMismatch(what), None, None, fields)
    assert may_grant_more(finding) is over_grant


@pytest.mark.parametrize(("state", "over_grant"), [("blocked", True), ("active", False)])
def test_a_blocked_user_who_is_missing_is_an_over_grant(state: str, over_grant: bool) -> None:
    """A user without a fact is active."""
    (found,) = AuditedPartition(builders.group(3)).findings(builders.user(1, state))
    assert found.mismatch is FactMismatch.MISSING
    assert may_grant_more(found) is over_grant
