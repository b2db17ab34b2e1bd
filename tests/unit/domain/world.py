"""One partition, fed with events one after another."""

from typing import Any

import orjson

from projector.domain.facts import encode_fact
from projector.domain.projection import Policy, Projection
from projector.domain.views import ViewId
from projector.events import replay_header
from projector.events.model import KafkaRecord, ReplayPosition
from tests import builders
from tests.builders import NOW, Message, digest

DAY = 24 * 3600 * 1000
RETENTION = 7 * DAY
HIERARCHY = [builders.group(3), builders.group(12, 3), builders.project(7, 12)]
COMPANY = [*HIERARCHY, builders.agent(5, 7), builders.started(9, 7)]
MEMBER_REMOVED = builders.event("member.removed", {"user_id": 1, "group_id": 12})


class World:
    """One partition, fed with events; `views` has the written views by token."""

    def __init__(self, *messages: dict[str, Any], partitions: int = 1, level: int = 30) -> None:
        self.projection = Projection(0, Policy(partitions, level, RETENTION))
        self.feed = builders.Feed()
        self.views: dict[ViewId, Any] = {}
        self.now = NOW
        self.take(*messages)

    def take(self, *messages: dict[str, Any]) -> list[str | None]:
        """Apply the events as one batch; return what is wrong with each."""
        complaints = [self.projection.apply(self.feed(message)) for message in messages]
        self.write()
        return complaints

    def at(self, now: int) -> None:
        self.now = now
        self.projection.advance(now)
        self.write()

    def write(self) -> None:
        self.written = {}
        for view in builders.take_changes(self.projection, self.now).views:
            self.written[view.id] = view
        self.views |= self.written

    def status_of(self, job: int) -> int:
        """Return the status of a job without a digest."""
        return int(self.views[ViewId(str(job))].status)

    def status(self, token: str = "token-9") -> int:
        return int(self.views[digest(token)].status)

    def body(self, token: str = "token-9") -> Any:
        return orjson.loads(self.views[digest(token)].body)

    def agents(self, token: str = "token-9") -> list[int]:
        return [agent["id"] for agent in self.body(token)["allowed_agents"]]


class ReplayWorld(World):
    """A partition with events that are broken at first, and replayed later."""

    def broken(self, message: Message, timestamp: int = NOW) -> KafkaRecord:
        """Apply a broken record; return the correct one, at the same offset."""
        record = self.feed(message, timestamp)
        assert self.projection.apply(record._replace(value=b"{")) is not None
        return record

    def replay(self, original: KafkaRecord, timestamp: int = NOW) -> str | None:
        """Apply the corrected event as `projector dead-letters replay` sends it."""
        own = self.feed(builders.group(0) | {"type": _kind(original)}, timestamp)
        header = replay_header.encode_position(ReplayPosition(original.offset, original.timestamp))
        complaint = self.projection.apply(
            original._replace(offset=own.offset, timestamp=timestamp, headers=(header,))
        )
        self.write()
        return complaint

    def restart(self) -> None:
        fields = {key: encode_fact(fact) for key, fact in self.projection.facts.items()}
        self.projection = Projection(0, Policy(1, 30, RETENTION))
        builders.restore(self.projection, fields)


def _kind(record: KafkaRecord) -> str:
    topics = {
        "membership": "group.set",
        "agent-config": "agent.set",
        "job-lifecycle": "job.started",
    }
    return topics[record.topic]
