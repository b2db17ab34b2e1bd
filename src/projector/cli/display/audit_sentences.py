"""The findings of an audit in plain words: the entity, both sides, and the event behind it."""

from collections.abc import Iterator
from typing import Any, Final

from projector.domain import fact_keys
from projector.domain.fact_keys import Key
from projector.events.model import ROLES
from projector.events.timestamps import to_rfc3339
from projector.operators.audit.comparison import FactMismatch
from projector.operators.audit.run import AuditRow, FieldValues, FindingRow, NotComparedRow

_ROLE_OF_LEVEL: Final = {level: role for role, level in ROLES.items()}
_NOUNS: Final = {
    "configuration": "the configuration of agent",
    "shared-agent": "the sharing of agent",
    "instance-agent": "the instance agent",
}
_TIMES: Final = ("expires_at",)


def as_text(row: AuditRow) -> str:
    """Write the row on one line."""
    if isinstance(row, NotComparedRow):
        return f"{row.what}: partition {row.partition}: {row.error}"
    kind = f"{row.what}, OVER-GRANT" if row.over_grant else str(row.what)
    text = f"{kind}: {_entity(Key(row.key))}: {'; '.join(_sides(row))}"
    if row.line is not None:
        text += f" (line {row.line})"
    if row.offset is not None and row.timestamp is not None:
        text += f" [{row.topic}/{row.partition}:{row.offset} of {to_rfc3339(row.timestamp)}]"
    return f"{text}: {row.outcome}" if isinstance(row.outcome, str) else text


def _entity(key: Key) -> str:
    kind = fact_keys.kind_of(key)
    if kind != "member":
        return f"{_NOUNS.get(kind, kind)} {fact_keys.name_of(key)}"
    scope, user = fact_keys.membership_of(key)
    where = f"{fact_keys.kind_of(scope)} {fact_keys.name_of(scope)}"
    via = fact_keys.via_of(key)
    return f"user {user} in {where}{'' if via == 'direct' else f' via {via}'}"


def _sides(row: FindingRow) -> Iterator[str]:
    if row.what is FactMismatch.MISSING:
        yield "not here, but in the export"
    elif row.what is FactMismatch.EXTRA:
        yield "here, but not in the export"
    for name, values in row.fields.items():
        yield _both(name, values)


def _both(name: str, values: FieldValues) -> str:
    here, there = (_value(name, value) for value in (values.fact, values.export))
    label = "" if name == "level" else f"{name} "
    return f"{label}{here} here, {there} in the export"


def _value(name: str, value: Any) -> str:
    if name == "level":
        return _ROLE_OF_LEVEL.get(value, f"level {value}")
    if name in _TIMES and isinstance(value, int):
        return to_rfc3339(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
