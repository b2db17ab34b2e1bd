"""Reads an agent's `.gitlab/agents/<name>/config.yaml` into the events that it means.

KAS reads the same file by YAML 1.1 and so does PyYAML, whose nodes also know their lines. Only
`ci_access` is read. What readers of YAML differ about is refused rather than guessed.
"""

import difflib
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from projector.domain.fact_keys import Root
from projector.events import ci_access, redaction
from projector.events.model import MAX_NESTING

# KAS reads no larger file (`max_configuration_file_size`, by default).
MAX_BYTES: Final = 128 * 1024
# Aliases can repeat a part over and over: a file of 1 KiB can stand for any amount of memory.
MAX_VALUES: Final = 100_000
LISTS: Final = ("projects", "groups")
MAX_SHOWN: Final = 40
# How alike a key must be; GitLab's own `user_access` is not that near.
_NEAR: Final = 0.75

_TAG: Final = "tag:yaml.org,2002:"
# JSON's own; YAML 1.1 also has 010 for 8 and 1:30 for 90. Nineteen digits hold any id.
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_FLOAT: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})\.[0-9]{1,30}", re.ASCII)
_MERGE: Final = "<<"
_BOOLEANS: Final = {"true": True, "false": False}
# As KAS does, which turns the file into JSON: a date is the text as it is written.
_TEXTS: Final = (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value")


class Fault(NamedTuple):
    """What is wrong in a line of the file, counted from 1."""

    line: int
    reason: str


class BadAgentFile(ValueError):
    """The file cannot be sent; `faults` says why, line by line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = [
            Fault(line, redaction.redact_text(reason)) for line, reason in sorted(faults)
        ]
        super().__init__("; ".join(f"line {line}: {reason}" for line, reason in self.faults))


class Agent(NamedTuple):
    """The agent that the file configures, which the file itself does not name."""

    id: int
    name: str
    project: int
    root: Root


class CiAccess(NamedTuple):
    """What the file shares; `instance` is None unless it shares with the whole instance."""

    projects: list[ci_access.Entry]
    groups: list[ci_access.Entry]
    instance: ci_access.Entry | None
    notes: list[Fault]


def read_agent_config(source: bytes) -> CiAccess:
    """What the file shares, and with whom. Raises `BadAgentFile`."""
    if len(source) > MAX_BYTES:
        raise BadAgentFile(
            [Fault(1, f"the file has more than the {MAX_BYTES} bytes that KAS reads")]
        )
    reader = _Reader()
    whole = _composed(source)
    file = reader.mapping(whole, "the file")
    shared = file.get("ci_access")
    access = reader.mapping(shared, "`ci_access`")
    projects, groups = (reader.entries(access.get(name), name) for name in LISTS)
    instance = reader.instance(access.get("instance"))
    if reader.faults:
        raise BadAgentFile(reader.faults)
    notes = [*_misspelt(whole), *_unread(shared), *reader.notes]
    if not projects and not groups and instance is None:
        notes.append(Fault(_line(shared) if shared else 1, "this shares the agent with nobody"))
    return CiAccess(projects, groups, instance, sorted(notes))


def agent_events(agent: Agent, access: CiAccess) -> Iterator[bytes]:
    """The CloudEvents, one a line, that say what the file says."""
    shared = {"id": agent.id, "name": agent.name, "project_id": agent.project}
    config = {"ci_access": {"projects": access.projects, "groups": access.groups}}
    yield _event(agent.root, "agent.set", shared)
    yield _event(agent.root, "agent.configured", {"id": agent.id, "config": config})
    if access.instance is None:
        yield _event(agent.root, "instance-agent.removed", {"id": agent.id})
    else:
        data = shared | {"configuration": access.instance}
        yield _event(agent.root, "instance-agent.set", data)


def _misspelt(file: Node | None) -> Iterator[Fault]:
    """Keys of the file that may have been meant as `ci_access`."""
    for name, line in _keys(file):
        if name != "ci_access" and difflib.get_close_matches(name, ["ci_access"], 1, _NEAR):
            yield Fault(line, f"`{name}` is not read; did you mean `ci_access`?")


def _unread(access: Node | None) -> Iterator[Fault]:
    for name, line in _keys(access):
        if name not in (*LISTS, "instance"):
            near = difflib.get_close_matches(name, [*LISTS, "instance"], 1)
            meant = f"; did you mean `{near[0]}`?" if near else ""
            yield Fault(line, f"`ci_access.{name[:MAX_SHOWN]}` is not read{meant}")


def _keys(node: Node | None) -> Iterator[tuple[str, int]]:
    """The names in a mapping, without those that `<<` brings in."""
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        if key.tag in _TEXTS:
            yield key.value, _line(key)


def _event(root: Root, kind: str, data: dict[str, Any]) -> bytes:
    envelope = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/projector/feed",
        "type": kind,
        "partitionkey": root,
        "data": data,
    }
    return msgspec.json.encode(envelope)


def _composed(source: bytes) -> Node | None:
    """The nodes of the file, with their lines; nothing in them has been looked at."""
    try:
        return yaml.compose(source, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise BadAgentFile([Fault(mark.line + 1 if mark else 1, f"not YAML: {reason}")]) from None
    except yaml.reader.ReaderError as error:
        line = source[: error.position].count(b"\n") + 1
        raise BadAgentFile([Fault(line, f"not YAML: {error.reason}")]) from None
    except RecursionError:
        raise BadAgentFile([Fault(1, "not YAML that can be read: nested too deep")]) from None


class _Unreadable(Exception):
    """This part of the file has no JSON; it is noted, and the other parts are still looked at."""

    def __init__(self, node: Node, reason: str) -> None:
        self.fault = Fault(_line(node), reason)


class _Reader:
    """From nodes to values, noting every fault on the way."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self._values = 0

    def mapping(self, node: Node | None, what: str) -> dict[str, Node]:
        """The fields of a part that must be a mapping; none where it is left out or null."""
        if node is None or _is_null(node):
            return {}
        try:
            return dict(self._fields(node, what))
        except _Unreadable as error:
            self.faults.append(error.fault)
            return {}

    def entries(self, node: Node | None, name: str) -> list[ci_access.Entry]:
        """One list of `ci_access`; null is an empty one."""
        if node is None or _is_null(node):
            return []
        if not isinstance(node, SequenceNode):
            self.faults.append(Fault(_line(node), f"`ci_access.{name}` must be a list"))
            return []
        if len(node.value) > ci_access.MAX_ENTRIES:
            beyond = node.value[ci_access.MAX_ENTRIES]
            said = f"only the first {ci_access.MAX_ENTRIES} of {len(node.value)} entries count"
            self.notes.append(Fault(_line(beyond), f"`ci_access.{name}`: {said}"))
        entries = (self._entry(entry, name) for entry in node.value[: ci_access.MAX_ENTRIES])
        return [entry for entry in entries if entry is not None]

    def instance(self, node: Node | None) -> ci_access.Entry | None:
        """The configuration for the whole instance; null shares nothing, as in KAS."""
        if node is None or _is_null(node):
            return None
        return self._checked(node, "`ci_access.instance`", ci_access.unreadable_reason)

    def _entry(self, node: Node, name: str) -> ci_access.Entry | None:
        return self._checked(node, f"an entry of `ci_access.{name}`", ci_access.rejection_reason)

    def _checked(
        self, node: Node, what: str, complaint: Callable[[ci_access.Entry], str | None]
    ) -> ci_access.Entry | None:
        try:
            fields = dict(self._fields(node, what))
            entry = {name: self._value(child, 1) for name, child in fields.items()}
        except _Unreadable as error:
            self.faults.append(error.fault)
            return None
        if reason := complaint(entry):
            self.faults.append(Fault(_line(node), f"{what} does not count: {reason}"))
        if not isinstance(entry.get("environments"), list | None):
            said = f"{what} lets nobody in: `environments` is no list"
            self.notes.append(Fault(_line(fields["environments"]), said))
        return entry

    def _value(self, node: Node, depth: int) -> Any:
        self._count(node, depth)
        if isinstance(node, MappingNode):
            fields = self._fields(node, "this", depth)
            return {name: self._value(child, depth + 1) for name, child in fields}
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(child, depth + 1) for child in node.value]
        return _scalar(node)

    def _count(self, node: Node, depth: int) -> None:
        """Bounds what aliases make of a file: its size, its depth, and circles."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Unreadable(node, f"the aliases make more than {MAX_VALUES} values of the file")
        if depth > MAX_NESTING:
            raise _Unreadable(node, f"nested deeper than {MAX_NESTING} levels, or within itself")

    def _fields(self, node: Node, what: str, depth: int = 0) -> Iterable[tuple[str, Node]]:
        """The fields of a mapping, those of `<<` beneath its own; each name once."""
        if not isinstance(node, MappingNode) or node.tag != f"{_TAG}map":
            raise _Unreadable(node, f"{what} must be a mapping (`name: value`)")
        own: dict[str, Node] = {}
        for key, value in node.value:
            self._count(key, depth)
            name = _MERGE if key.tag == f"{_TAG}merge" else _name(key)
            if name in own:
                raise _Unreadable(key, f"`{name}` stands there twice")
            own[name] = value
        merged = self._merged(own.pop(_MERGE), depth) if _MERGE in own else {}
        return (merged | own).items()

    def _merged(self, node: Node, depth: int) -> dict[str, Node]:
        """What `<<` brings in; of several mappings the first that has a name counts."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        fields: dict[str, Node] = {}
        for source in sources:
            fields = dict(self._fields(source, "what `<<` names", depth + 1)) | fields
        return fields


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == f"{_TAG}null"


def _name(key: Node) -> str:
    """Only texts: of `on:` and `1:` each reader makes something else."""
    if not isinstance(key, ScalarNode) or key.tag not in _TEXTS:
        raise _Unreadable(key, "a name must be text; put it in quotes")
    return _text(key)


def _text(node: Node) -> str:
    """What a scalar says; half of a surrogate pair, as in "\\ud800", is no character."""
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Unreadable(node, "text with \\ud800 to \\udfff, which are no characters")
    return text


_QUOTE: Final = "put it in quotes"
_ADVICE: Final = {"bool": "write true or false, or put it in quotes"}


def _scalar(node: Node) -> Any:
    if node.tag in _TEXTS and isinstance(node, ScalarNode):
        return _text(node)
    if _is_null(node):
        return None
    if not isinstance(node, ScalarNode):
        raise _Unreadable(node, f"`{node.tag[:40]}` has no JSON")
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    if kind == "bool" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    raise _Unreadable(node, f"`{text[:40]}` is read in different ways; {_ADVICE.get(kind, _QUOTE)}")
