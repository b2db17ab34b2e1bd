"""Events that repair the findings of an audit.

They rank at the time of the export (`replay_header`). Any later event outranks them, whether it is
applied already or still on its way. So a repair never undoes a revocation of after the export.
"""

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from msgspec.structs import replace

from projector.domain import entities, fact_keys
from projector.domain.entities import Job
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact
from projector.domain.index.fact_index import FactIndex
from projector.domain.transitions import changes
from projector.events import replay_header
from projector.events.late_events import refuse_late
from projector.events.model import BadEvent, Event, KafkaRecord, ReplayPosition, Topic
from projector.feed import event_file
from projector.operators.audit.comparison import AuditFinding, compare_fact
from projector.operators.snapshot import Snapshot

if TYPE_CHECKING:
    from projector.feed.producer import Message

SOURCE: Final = "projector audit"
# A repair's own offset is not known. This one is higher than any.
_LAST: Final = 2**62


class Repair(NamedTuple):
    """The message that repairs a finding, or the obstacle to that."""

    message: "Message | None"
    obstacle: str = ""


def last_offsets(facts: FactIndex, cutoff: int) -> dict[Topic, int]:
    """Find each topic's last offset up to the time `cutoff` (ms), as far as facts have offsets.

    That is exact enough: no older fact is behind that offset, and no newer event before it.
    """
    last: dict[Topic, int] = {}
    for key, fact in facts.items():
        topic = entities.TOPIC_OF_KIND[fact_keys.kind_of(key)]
        if fact.timestamp <= cutoff:
            last[topic] = max(last.get(topic, fact.offset), fact.offset)
    return last


class RepairPlanner:
    """Makes the events that repair the findings of one partition."""

    def __init__(self, look: Snapshot, cutoff: int, retention_ms: int) -> None:
        self._look = look
        self._cutoff = cutoff
        self._retention_ms = retention_ms
        self._last_offsets = last_offsets(look.facts, cutoff)

    def plan(self, finding: AuditFinding, line: bytes | None) -> Repair:
        """Make the event for a finding; `line` is the export's, if it has one."""
        # Here, as a comparison without repairs does without Kafka's client.
        from projector.feed.producer import CONTENT_TYPE, Message  # noqa: PLC0415

        value = line or _removal(finding.key)
        if value is None:
            return Repair(None, "no event removes a user; feed `user.set` with another state")
        event = event_file.parse_line(value)
        offset = self._last_offsets.get(event.kind.topic)
        if offset is None:
            return Repair(None, f"{event.kind.topic} has nothing older; feed it as a new event")
        position = ReplayPosition(offset, self._cutoff)
        if obstacle := self._obstacle(replace(event, replays=position), finding):
            return Repair(None, obstacle)
        headers = (CONTENT_TYPE, replay_header.encode_position(position))
        topic, partition = event.kind.topic, self._look.partition
        return Repair(Message(topic, partition, event.root, value, headers))

    def _obstacle(self, event: Event, finding: AuditFinding) -> str:
        """Apply the event on trial; return why it does not repair the finding, or an empty text."""
        if too_low := _too_low(event, finding.fact):
            return too_low
        facts, now = self._look.facts, self._look.now
        record = KafkaRecord(event.kind.topic, self._look.partition, _LAST, now, None, None)
        try:
            new = dict(changes(facts, refuse_late(event, record, self._retention_ms), record))
        except BadEvent as error:
            return str(error)
        after = new.get(finding.key, finding.fact)
        mismatch, _ = compare_fact(finding.entry, after, now)
        return "" if mismatch is None else _reason(finding.fact)


def _reason(fact: AnyFact | None) -> str:
    if fact and isinstance(fact.data, Job) and fact.data.finished:
        return "the job has finished, and finished is final"
    return "an event of after the export outranks it"


def _too_low(event: Event, fact: AnyFact | None) -> str:
    """Refuse an event whose sequence is not above the fact's; empty if it is above."""
    if fact is None or fact.sequence is None or event.sequence is None:
        return ""
    if event.sequence > fact.sequence:
        return ""
    return (
        f"its sequence {event.sequence} is not above {fact.sequence}, which is applied already; "
        "give a higher sequence"
    )


def _removal(key: Key) -> bytes | None:
    """Make the event that removes an entity; None for a user, whom no event removes."""
    name, data = _revocation(key)
    if name is None:
        return None
    root = fact_keys.root_of(key)
    envelope = {
        "specversion": "1.0", "id": str(uuid4()), "source": SOURCE, "type": name,
        "partitionkey": "1" if root == "*" else root, "data": data,
    }  # fmt: skip
    return json.dumps(envelope).encode()


def _revocation(key: Key) -> tuple[str | None, dict[str, Any]]:
    match fact_keys.kind_of(key):
        case "user":
            return None, {}
        case "member":
            scope, user = fact_keys.membership_of(key)
            via = fact_keys.via_of(key)
            scope_field = f"{fact_keys.kind_of(scope)}_id"
            return "member.removed", {
                "user_id": user, scope_field: fact_keys.id_of(scope), "via": via,
            }  # fmt: skip
        case "job":
            return "job.finished", {"id": fact_keys.id_of(key)}
        case "configuration":
            return "agent.configured", {"id": fact_keys.id_of(key), "config": {}}
        case kind:
            return f"{kind}.removed", {"id": fact_keys.id_of(key)}
