"""The `ci_access` of an agent's `.gitlab/agents/<name>/config.yaml`, and the events it means.

Every fault is reported with its line. Nothing is sent of a file that has one.
"""

import difflib
import io
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from projector.domain.fact_keys import Root
from projector.events import ci_access, redaction
from projector.feed.event_file import check_lines
from projector.feed.yaml_nodes import (
    Fault,
    Field,
    NodeReader,
    UnreadableYaml,
    all_fields,
    compose,
    is_null,
    line_of,
    own_names,
)

# The known fields of a mapping, each with the shape of its value, or None for any value.
_Shape = dict[str, Any]

# KAS reads no larger file (`max_configuration_file_size`, by default).
MAX_BYTES: Final = 128 * 1024
LISTS: Final = ("projects", "groups")
# Characters of a key that a note repeats.
MAX_SHOWN: Final = 40
# The fields inside `access_as` of the fields of an entry, as far as KAS refuses others.
_EXTRAS: Final[_Shape] = dict.fromkeys(ci_access.EXTRAS)
_IMPERSONATED: Final[_Shape] = dict.fromkeys(ci_access.IMPERSONATED) | {"extra": [_EXTRAS]}
_ACCESS_AS: Final[_Shape] = {"agent": {}, "ci_job": {}, "impersonate": _IMPERSONATED}
_ENTRY: Final[_Shape] = dict.fromkeys(ci_access.FIELDS) | {"access_as": _ACCESS_AS}
_INSTANCE: Final[_Shape] = {name: shape for name, shape in _ENTRY.items() if name != "id"}
# Of a project or group, as GitLab takes them.
_PATH: Final = re.compile(r"(?!.*\.(git|atom)\Z)[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)
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


def read_agent_config(source: bytes, *, allow_unknown: bool = False) -> SharedAccess:
    """Read what the file shares, and with whom; raises `BadAgentFile`.

    Unknown fields of entries are kept with `allow_unknown`, unless they misspell known ones.
    """
    if len(source) > MAX_BYTES:
        reason = f"the file has more than the {MAX_BYTES} bytes that KAS reads"
        raise BadAgentFile([Fault(1, reason)])
    try:
        file = compose(source)
    except UnreadableYaml as error:
        raise BadAgentFile([error.fault]) from None
    reader = _ConfigReader(allow_unknown=allow_unknown)
    shared = reader.mapping(file, "the file").get("ci_access")
    access = reader.mapping(shared, "`ci_access`")
    projects, groups = (reader.entries(access.get(name), name) for name in LISTS)
    instance = reader.instance(access.get("instance"))
    if reader.faults:
        raise BadAgentFile(reader.faults)
    notes = [
        *_misspelt_names(file),
        *_nested_names(file, shared),
        *_unread_names(shared),
        *reader.notes,
    ]
    if not projects and not groups and instance is None:
        notes.append(
            Fault(line_of(shared) if shared else 1, "this shares the agent with no project")
        )
    return SharedAccess(projects, groups, instance, sorted(notes))


def agent_event_file(agent: ConfiguredAgent, access: SharedAccess) -> tuple[BinaryIO, list[str]]:
    """Return the events as a file of lines, and why any of them cannot be sent."""
    events = io.BytesIO(b"\n".join(agent_events(agent, access)))
    _, bad, doubtful = check_lines(events)
    events.seek(0)
    return events, [line.reason for line in (*bad, *doubtful)]


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


def _nested_names(file: Node | None, shared: Node | None) -> Iterator[Fault]:
    """Note each `ci_access` inside another block, which shares nothing there."""
    for key, value in all_fields(file):
        if isinstance(key, ScalarNode) and key.value == "ci_access" and value is not shared:
            reason = "`ci_access` inside another block is not read; move it out of that block"
            yield Fault(line_of(key), reason)


def _unread_names(access: Node | None) -> Iterator[Fault]:
    for name, line in own_names(access):
        if name not in (*LISTS, "instance", "ci_access"):
            near = difflib.get_close_matches(name, [*LISTS, "instance"], 1)
            meant = f"; did you mean `{near[0]}`?" if near else ""
            yield Fault(line, f"`ci_access.{name[:MAX_SHOWN]}` is not read{meant}")


class _ConfigReader:
    """Reads the parts of `ci_access`, and collects every fault and note."""

    def __init__(self, *, allow_unknown: bool) -> None:
        self._allow_unknown = allow_unknown
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self._nodes = NodeReader()

    def mapping(self, node: Node | None, name: str) -> dict[str, Node]:
        """Return the values of a mapping; an empty one if it is left out or null."""
        if node is None or is_null(node):
            return {}
        try:
            return {key: field.node for key, field in self._nodes.fields(node, name).items()}
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
            self._entry(entry, part, _ENTRY, ci_access.rejection_reason)
            for entry in node.value[: ci_access.MAX_ENTRIES]
        ]
        return [entry for entry in entries if entry is not None]

    def instance(self, node: Node | None) -> ci_access.Entry | None:
        """Return the configuration for the whole instance; like KAS, None for null."""
        if node is None or is_null(node):
            return None
        return self._entry(node, "`ci_access.instance`", _INSTANCE, ci_access.unreadable_reason)

    def _entry(
        self,
        node: Node,
        part: str,
        shape: _Shape,
        rejection: Callable[[ci_access.Entry], str | None],
    ) -> ci_access.Entry | None:
        try:
            fields = self._nodes.fields(node, part)
            entry = {name: self._nodes.value(field.node, 1) for name, field in fields.items()}
            unknown = list(self._unknown_fields(fields, part, shape))
        except UnreadableYaml as error:
            self.faults.append(error.fault)
            return None
        self.faults += unknown
        if not unknown and (reason := rejection(entry)):
            self.faults.append(Fault(line_of(node), f"{part} does not count: {reason}"))
        reasons = {"id": _unmatched_path(entry.get("id")), "environments": _unmatched(entry)}
        self.notes += [
            Fault(line_of(fields[name].node), f"{part} allows no job: {reason}")
            for name, reason in reasons.items()
            if reason
        ]
        return entry

    def _unknown_fields(
        self, fields: dict[str, Field], part: str, shape: _Shape
    ) -> Iterator[Fault]:
        """Yield a fault for each field that is not in the shape, also inside the known ones."""
        for name, field in fields.items():
            if name in shape:
                yield from self._unknown_inside(field.node, f"`{name}` in {part}", shape[name])
                continue
            meant = ci_access.intended_field(name, tuple(shape))
            if self._allow_unknown and not meant:
                continue
            near = [meant] if meant else difflib.get_close_matches(name, shape, 1)
            advice = f"did you mean `{near[0]}`?" if near else (
                "take it out, or give --allow-unknown if your KAS reads it"
            )  # fmt: skip
            shown = redaction.redact_text(name)[:MAX_SHOWN]
            yield Fault(field.line, f"`{shown}` in {part} is unknown; {advice}")

    def _unknown_inside(self, node: Node, part: str, shape: Any) -> Iterator[Fault]:
        """Yield the faults of a known field's value; the wrong kind of value is not one here."""
        if isinstance(shape, dict) and isinstance(node, MappingNode):
            yield from self._unknown_fields(self._nodes.fields(node, part), part, shape)
        if isinstance(shape, list) and isinstance(node, SequenceNode):
            for child in node.value:
                yield from self._unknown_inside(child, part, shape[0])


def _unmatched_path(target: Any) -> str | None:
    """Return why no project or group can have such a path, or None."""
    if not isinstance(target, str) or _PATH.fullmatch(target):
        return None
    if "://" in target:
        return "`id` is an address; write only the path, such as `acme/shop`"
    if target.endswith((".git", ".atom")):
        return "no path ends in `.git` or `.atom`; leave that out of `id`"
    if target != target.strip("/"):
        return "no path begins or ends with `/`; leave that out of `id`"
    return "`id` is not a path; a path has letters, digits, `_`, `-`, `.` and single `/`"


def _unmatched(entry: ci_access.Entry) -> str | None:
    """Return why the environments, or one of them, match no job; or None."""
    environments = entry.get("environments")
    if not isinstance(environments, list | None):
        return "`environments` is not a list"
    if all(isinstance(pattern, str) and pattern for pattern in environments or ()):
        return None
    return "`environments` must be texts that are not empty"
