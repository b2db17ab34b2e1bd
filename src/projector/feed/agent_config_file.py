"""The `ci_access` of an agent's `.gitlab/agents/<name>/config.yaml`, and the events it means.

Every fault is reported with its line. Nothing is sent of a file that has one.
"""

import difflib
import io
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from yaml.nodes import Node, SequenceNode

from projector.domain.fact_keys import Root
from projector.events import ci_access, redaction
from projector.feed.event_file import check_lines
from projector.feed.yaml_nodes import (
    Fault,
    NodeReader,
    UnreadableYaml,
    compose,
    is_null,
    line_of,
    own_names,
)

# KAS reads no larger file (`max_configuration_file_size`, by default).
MAX_BYTES: Final = 128 * 1024
LISTS: Final = ("projects", "groups")
# Characters of a key that a note repeats.
MAX_SHOWN: Final = 40
# How alike `ci_access` a key must be to be noted; GitLab's own `user_access` is less alike.
_NEAR: Final = 0.75


class BadAgentFile(ValueError):
    """The file cannot be sent; `faults` has the reason for each wrong line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = [
            Fault(line, redaction.redact_text(reason)) for line, reason in sorted(faults)
        ]
        super().__init__("; ".join(f"line {line}: {reason}" for line, reason in self.faults))


class ConfiguredAgent(NamedTuple):
    """The agent that the file configures, which the file itself does not name."""

    id: int
    name: str
    project: int
    root: Root


class SharedAccess(NamedTuple):
    """The entries of the file; `instance` is None unless it shares with the whole instance."""

    projects: list[ci_access.Entry]
    groups: list[ci_access.Entry]
    instance: ci_access.Entry | None
    notes: list[Fault]


def read_agent_config(source: bytes) -> SharedAccess:
    """Read what the file shares, and with whom; raises `BadAgentFile`."""
    if len(source) > MAX_BYTES:
        reason = f"the file has more than the {MAX_BYTES} bytes that KAS reads"
        raise BadAgentFile([Fault(1, reason)])
    try:
        file = compose(source)
    except UnreadableYaml as error:
        raise BadAgentFile([error.fault]) from None
    reader = _ConfigReader()
    shared = reader.mapping(file, "the file").get("ci_access")
    access = reader.mapping(shared, "`ci_access`")
    projects, groups = (reader.entries(access.get(name), name) for name in LISTS)
    instance = reader.instance(access.get("instance"))
    if reader.faults:
        raise BadAgentFile(reader.faults)
    notes = [*_misspelt_names(file), *_unread_names(shared), *reader.notes]
    if not projects and not groups and instance is None:
        notes.append(
            Fault(line_of(shared) if shared else 1, "this shares the agent with no project")
        )
    return SharedAccess(projects, groups, instance, sorted(notes))


def agent_event_file(agent: ConfiguredAgent, access: SharedAccess) -> tuple[BinaryIO, list[str]]:
    """Return the events as a file of lines, and why any of them cannot be sent."""
    events = io.BytesIO(b"\n".join(agent_events(agent, access)))
    _, bad = check_lines(events)
    events.seek(0)
    return events, [line.reason for line in bad]


def agent_events(agent: ConfiguredAgent, access: SharedAccess) -> Iterator[bytes]:
    """Yield the CloudEvents that bring the agent to the state of the file, one a line."""
    identity = {"id": agent.id, "name": agent.name, "project_id": agent.project}
    config = {"ci_access": {"projects": access.projects, "groups": access.groups}}
    yield _event(agent.root, "agent.set", identity)
    yield _event(agent.root, "agent.configured", {"id": agent.id, "config": config})
    if access.instance is None:
        yield _event(agent.root, "instance-agent.removed", {"id": agent.id})
    else:
        data = identity | {"configuration": access.instance}
        yield _event(agent.root, "instance-agent.set", data)


def _event(root: Root, event_type: str, data: dict[str, Any]) -> bytes:
    envelope = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/projector/feed",
        "type": event_type,
        "partitionkey": root,
        "data": data,
    }
    return msgspec.json.encode(envelope)


def _misspelt_names(file: Node | None) -> Iterator[Fault]:
    """Note names in the file that may be meant as `ci_access`."""
    for name, line in own_names(file):
        if name != "ci_access" and difflib.get_close_matches(name, ["ci_access"], 1, _NEAR):
            yield Fault(line, f"`{name}` is not read; did you mean `ci_access`?")


def _unread_names(access: Node | None) -> Iterator[Fault]:
    for name, line in own_names(access):
        if name not in (*LISTS, "instance"):
            near = difflib.get_close_matches(name, [*LISTS, "instance"], 1)
            meant = f"; did you mean `{near[0]}`?" if near else ""
            yield Fault(line, f"`ci_access.{name[:MAX_SHOWN]}` is not read{meant}")


class _ConfigReader:
    """Reads the parts of `ci_access`, and collects every fault and note."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self._nodes = NodeReader()

    def mapping(self, node: Node | None, name: str) -> dict[str, Node]:
        """Return the fields of a mapping; an empty one if it is left out or null."""
        if node is None or is_null(node):
            return {}
        try:
            return self._nodes.fields(node, name)
        except UnreadableYaml as error:
            self.faults.append(error.fault)
            return {}

    def entries(self, node: Node | None, name: str) -> list[ci_access.Entry]:
        """Return one list of `ci_access`; an empty one if it is left out or null."""
        if node is None or is_null(node):
            return []
        if not isinstance(node, SequenceNode):
            self.faults.append(Fault(line_of(node), f"`ci_access.{name}` must be a list"))
            return []
        if len(node.value) > ci_access.MAX_ENTRIES:
            beyond = node.value[ci_access.MAX_ENTRIES]
            reason = f"only the first {ci_access.MAX_ENTRIES} of {len(node.value)} entries count"
            self.notes.append(Fault(line_of(beyond), f"`ci_access.{name}`: {reason}"))
        part = f"an entry of `ci_access.{name}`"
        entries = [
            self._entry(entry, part, ci_access.rejection_reason)
            for entry in node.value[: ci_access.MAX_ENTRIES]
        ]
        return [entry for entry in entries if entry is not None]

    def instance(self, node: Node | None) -> ci_access.Entry | None:
        """Return the configuration for the whole instance; like KAS, None for null."""
        if node is None or is_null(node):
            return None
        return self._entry(node, "`ci_access.instance`", ci_access.unreadable_reason)

    def _entry(
        self, node: Node, part: str, rejection: Callable[[ci_access.Entry], str | None]
    ) -> ci_access.Entry | None:
        try:
            fields = self._nodes.fields(node, part)
            entry = {name: self._nodes.value(child, 1) for name, child in fields.items()}
        except UnreadableYaml as error:
            self.faults.append(error.fault)
            return None
        if reason := rejection(entry):
            self.faults.append(Fault(line_of(node), f"{part} does not count: {reason}"))
        if not isinstance(entry.get("environments"), list | None):
            reason = f"{part} allows no job: `environments` is not a list"
            self.notes.append(Fault(line_of(fields["environments"]), reason))
        return entry
