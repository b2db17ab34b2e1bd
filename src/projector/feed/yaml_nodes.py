"""YAML nodes as JSON values with their lines, as KAS reads them; ambiguous scalars are refused.

KAS and PyYAML both read YAML 1.1, whose readers differ about scalars such as `on` or `010`.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from projector.events.model import MAX_NESTING

# Aliases can repeat a part over and over: a file of 1 KiB could fill any amount of memory.
MAX_VALUES: Final = 100_000

_TAG: Final = "tag:yaml.org,2002:"
# JSON's own; YAML 1.1 also has 010 for 8 and 1:30 for 90. Nineteen digits hold any id.
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_FLOAT: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})\.[0-9]{1,30}", re.ASCII)
_MERGE: Final = "<<"
_BOOLEANS: Final = {"true": True, "false": False}
# KAS turns the file into JSON: a date becomes its text.
_TEXTS: Final = (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value")
_QUOTE: Final = "put it in quotes"
_ADVICE: Final = {"bool": "write true or false, or put it in quotes"}


class Fault(NamedTuple):
    """A line of the file, counted from 1, and what is wrong in it."""

    line: int
    reason: str


class UnreadableYaml(Exception):
    """A part of the file that cannot be turned into JSON, with its line and the reason."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.fault = Fault(line, reason)


def compose(source: bytes) -> Node | None:
    """Parse the file into nodes that have lines; raises `UnreadableYaml`."""
    try:
        return yaml.compose(source, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise UnreadableYaml(mark.line + 1 if mark else 1, f"not YAML: {reason}") from None
    except yaml.reader.ReaderError as error:
        line = source[: error.position].count(b"\n") + 1
        raise UnreadableYaml(line, f"not YAML: {error.reason}") from None
    except RecursionError:
        raise UnreadableYaml(1, "not YAML that can be read: nested too deep") from None


class NodeReader:
    """Reads nodes of one file. Each method raises `UnreadableYaml` for what JSON cannot hold."""

    def __init__(self) -> None:
        self._values = 0

    def fields(self, node: Node, name: str, depth: int = 0) -> dict[str, Node]:
        """Return the fields of a mapping; its own replace those that `<<` merges in."""
        if not isinstance(node, MappingNode) or node.tag != f"{_TAG}map":
            raise UnreadableYaml(line_of(node), f"{name} must be a mapping (`name: value`)")
        own: dict[str, Node] = {}
        for key, value in node.value:
            self._count(key, depth)
            field = _MERGE if key.tag == f"{_TAG}merge" else _field_name(key)
            if field in own:
                raise UnreadableYaml(line_of(key), f"`{field}` is given twice")
            own[field] = value
        merged = self._merged(own.pop(_MERGE), depth) if _MERGE in own else {}
        return merged | own

    def value(self, node: Node, depth: int) -> Any:
        """Return the node's value as JSON has it."""
        self._count(node, depth)
        if isinstance(node, MappingNode):
            fields = self.fields(node, "this", depth)
            return {name: self.value(child, depth + 1) for name, child in fields.items()}
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(child, depth + 1) for child in node.value]
        return _scalar(node)

    def _count(self, node: Node, depth: int) -> None:
        """Refuse a file that aliases make too large, too deep or circular."""
        self._values += 1
        if self._values > MAX_VALUES:
            reason = f"the aliases make more than {MAX_VALUES} values of the file"
            raise UnreadableYaml(line_of(node), reason)
        if depth > MAX_NESTING:
            reason = f"nested deeper than {MAX_NESTING} levels, or within itself"
            raise UnreadableYaml(line_of(node), reason)

    def _merged(self, node: Node, depth: int) -> dict[str, Node]:
        """Return the fields that `<<` names; the first of several mappings has precedence."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        fields: dict[str, Node] = {}
        for source in sources:
            fields = self.fields(source, "what `<<` names", depth + 1) | fields
        return fields


def line_of(node: Node) -> int:
    """Return the line on which the node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def is_null(node: Node) -> bool:
    """Whether the node is null, or left empty."""
    return isinstance(node, ScalarNode) and node.tag == f"{_TAG}null"


def own_names(node: Node | None) -> Iterator[tuple[str, int]]:
    """Yield the names in a mapping with their lines, without those that `<<` merges in."""
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        if key.tag in _TEXTS:
            yield key.value, line_of(key)


def _field_name(key: Node) -> str:
    """Return a name that is text: readers of YAML differ about `on:` and `1:`."""
    if not isinstance(key, ScalarNode) or key.tag not in _TEXTS:
        raise UnreadableYaml(line_of(key), "a name must be text; put it in quotes")
    return _text(key)


def _text(node: Node) -> str:
    """Return the scalar's text; refuse halves of a surrogate pair, which UTF-8 cannot encode."""
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        reason = "text with \\ud800 to \\udfff, which are not characters"
        raise UnreadableYaml(line_of(node), reason)
    return text


def _scalar(node: Node) -> Any:
    if node.tag in _TEXTS and isinstance(node, ScalarNode):
        return _text(node)
    if is_null(node):
        return None
    if not isinstance(node, ScalarNode):
        raise UnreadableYaml(line_of(node), f"`{node.tag[:40]}` has no JSON")
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    if kind == "bool" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    advice = _ADVICE.get(kind, _QUOTE)
    raise UnreadableYaml(line_of(node), f"`{text[:40]}` is read in different ways; {advice}")
