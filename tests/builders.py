"""Events, records and checkpoints for tests."""

import hashlib
import json
import sys
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from projector.domain.fact_keys import Key
from projector.domain.projection import Projection
from projector.domain.views import View, ViewId
from projector.events.model import EVENT_TYPES, KafkaRecord, SourceRecord, Topic
from projector.events.redaction import Headers

Message = dict[str, Any]

ROOT = "3"
NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
LATER = "2027-02-01T00:00:00Z"


def digest(token: str) -> ViewId:
    return ViewId(hashlib.sha256(token.encode()).hexdigest())


def event(kind: str, data: dict[str, Any], root: str = ROOT, **attributes: Any) -> dict[str, Any]:
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "/test",
        "type": kind,
        "partitionkey": root,
        "data": data,
    }
    return envelope | attributes


def group(number: int, parent: int | None = None, **more: Any) -> dict[str, Any]:
    path = more.pop("path", f"g{number}")
    return event("group.set", {"id": number, "parent_id": parent, "path": path}, **more)


def project(number: int, group_id: int | None = None, **more: Any) -> dict[str, Any]:
    path = more.pop("path", f"p{number}")
    return event("project.set", {"id": number, "group_id": group_id, "path": path}, **more)


def member(user: int, role: str | int = "developer", **more: Any) -> dict[str, Any]:
    names = ("group_id", "project_id", "via")
    where: dict[str, Any] = {name: more.pop(name) for name in names if name in more}
    ends = {"expires_at": more.pop("expires_at", None)}
    return event("member.set", {"user_id": user, "role": role, **where, **ends}, **more)


def user(number: int, state: str = "active", **more: Any) -> dict[str, Any]:
    return event("user.set", {"id": number, "username": f"u{number}", "state": state}, **more)


def agent(number: int, project_id: int, **more: Any) -> dict[str, Any]:
    data = {"id": number, "name": f"a{number}", "project_id": project_id}
    return event("agent.set", data, **more)


def configured(number: int, *, projects: Any = None, groups: Any = None, **more: Any) -> Any:
    config = {"ci_access": {"projects": projects, "groups": groups}}
    return event("agent.configured", {"id": number, "config": config}, **more)


def shared(number: int, project_id: int, configuration: Any = None, **more: Any) -> Any:
    """Return an agent shared with the whole instance."""
    data = {"id": number, "name": f"a{number}", "project_id": project_id}
    return event("instance-agent.set", data | {"configuration": configuration or {}}, **more)


def shared_agent(
    number: int, project_id: int, *, projects: Any = None, groups: Any = None, **more: Any
) -> Any:
    """Return an agent of another root namespace, shared with this one."""
    data = {"id": number, "name": f"a{number}", "project_id": project_id}
    config = {"ci_access": {"projects": projects, "groups": groups}}
    return event("shared-agent.set", data | {"config": config}, **more)


def started(job: int, project_id: int, user_id: int = 1, **more: Any) -> dict[str, Any]:
    """Return the start of a job; without a digest if `token` is None."""
    token = more.pop("token", f"token-{job}")
    data = {
        "id": job,
        **({} if token is None else {"token_sha256": digest(token)}),
        "project_id": project_id,
        "pipeline_id": 2000 + job,
        "user": {"id": user_id, "username": "root"},
        "ref_protected": more.pop("ref_protected", False),
        "environment": more.pop("environment", None),
        "expires_at": more.pop("expires_at", LATER),
    }
    return event("job.started", data, **more)


def removed(kind: str, number: int, **more: Any) -> dict[str, Any]:
    """Return the removal of an entity, or the end of a job."""
    name = "job.finished" if kind == "job" else f"{kind}.removed"
    return event(name, {"id": number}, **more)


def record(
    message: dict[str, Any] | bytes | None,
    offset: int = 0,
    *,
    topic: Topic | None = None,
    partition: int = 0,
    headers: Headers = (),
    timestamp: int = NOW,
) -> KafkaRecord:
    """Return the record with `message`, in the topic of its type unless given."""
    if topic is None:
        kind = message["type"] if isinstance(message, dict) else "group.set"
        topic = EVENT_TYPES[kind].topic if kind in EVENT_TYPES else Topic.MEMBERSHIP
    value = json.dumps(message).encode() if isinstance(message, dict) else message
    return KafkaRecord(topic, partition, offset, timestamp, b"3", value, headers)


def heartbeat(
    source: str, after: int | None, offsets: Mapping[Any, list[int]], **attributes: Any
) -> dict[str, Any]:
    """Return a heartbeat of a source; `offsets` has the next ones of each partition by topic."""
    data = {"source": source, "after": after, "offsets": dict(offsets)}
    message = event("source.heartbeat", data)
    del message["partitionkey"]
    return message | attributes


def heartbeat_record(
    message: dict[str, Any] | bytes | None, offset: int = 0, *, key: bytes | None = b"gitlab"
) -> SourceRecord:
    """Return the record with this heartbeat, under the key of the source `gitlab` unless given."""
    value = json.dumps(message).encode() if isinstance(message, dict) else message
    return SourceRecord(offset, key, value)


class Feed:
    """Numbers the records of each topic, as Kafka does."""

    def __init__(self) -> None:
        self._next = dict.fromkeys(Topic, 0)

    def __call__(self, message: dict[str, Any], timestamp: int = NOW) -> KafkaRecord:
        topic = EVENT_TYPES[message["type"]].topic
        offset = self._next[topic]
        self._next[topic] += 1
        return record(message, offset, timestamp=timestamp)


class Changes(NamedTuple):
    """The views to write, then the fields of the checkpoint (None: delete)."""

    views: list[View]
    facts: dict[Key, bytes | None]


def take_changes(projection: Projection, now: int) -> Changes:
    """Return all that has changed since the last call, as of `now` (milliseconds)."""
    tokens = projection.take_dirty(sys.maxsize).ids
    return Changes(list(projection.views(tokens, now)), projection.take_fields())


def restore(projection: Projection, *parts: Mapping[Key, bytes]) -> None:
    """Load a checkpoint as an owner does."""
    encoded = ({key.encode(): raw for key, raw in part.items()} for part in parts)
    for _ in chain(*map(projection.load, encoded), projection.settle()):
        pass
