"""YAML nodes as JSON values with their lines, as KAS reads them; ambiguous scalars are refused.

KAS reads YAML by the Go package sigs.k8s.io/yaml, which is go-yaml 2. It and PyYAML both read
YAML 1.1, but differ about scalars such as `on`, `010` or `1e3`, about tabs, and about `<<`.
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
_LINE_ENDS: Final = "\0\r\n\x85\u2028\u2029"
_BOOLEANS: Final = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NULLS: Final = ("", "~", "null", "Null", "NULL")
_ESCAPES: Final = {
    escape: text for escape, text in yaml.SafeLoader.ESCAPE_REPLACEMENTS.items() if escape != "/"
}
_TEXT: Final = f"{_TAG}str"
# KAS turns the file into JSON: a date becomes its text.
_DATES: Final = (f"{_TAG}timestamp", f"{_TAG}value")
# Numbers and booleans of go-yaml that are text for PyYAML. go-yaml leaves `_` out of numbers.
_GO_NUMBER: Final = re.compile(
    r"[-+]?(0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+"
    r"|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)",
    re.ASCII,
)
_GO_BOOLEANS: Final = ("y", "Y", "n", "N")
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


class Field(NamedTuple):
    """The value of a field, and the line of its name."""

    node: Node
    line: int


class _Loader(yaml.SafeLoader):
    """Reads tabs as go-yaml does, and tags all its numbers and booleans as such.

    A tab may stand between two parts of a line, but not where a line or an entry begins.
    """

    # go-yaml refuses `\/`, which YAML has since 1.2.
    ESCAPE_REPLACEMENTS = _ESCAPES  # type: ignore[misc]

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        is_bare = self.peek_event().tag == "!"  # type: ignore[no-untyped-call]
        node = super().compose_scalar_node(anchor)
        # After a bare `!`, PyYAML reads numbers, and go-yaml text.
        node.tag = "!" if is_bare else node.tag
        return node

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if kind is not ScalarNode or not implicit[0]:
            return tag
        if tag in _DATES:
            return _TEXT
        if tag != _TEXT:
            return tag
        if value in _GO_BOOLEANS:
            return f"{_TAG}bool"
        return f"{_TAG}float" if _GO_NUMBER.fullmatch(value.replace("_", "")) else tag

    def scan_to_next_token(self) -> None:
        self._skip_tabs()
        super().scan_to_next_token()
        while self._skip_tabs():
            super().scan_to_next_token()

    def scan_plain_spaces(self, indent: int, start_mark: Any) -> Any:
        length = 0
        while self.peek(length) in " \t":
            length += 1
        blanks = self.prefix(length)
        if "\t" not in blanks:
            return super().scan_plain_spaces(indent, start_mark)
        self.forward(length)
        at_end = self.peek() in _LINE_ENDS
        return super().scan_plain_spaces(indent, start_mark) if at_end else [blanks]

    def _skip_tabs(self) -> bool:
        before = self.index
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
        return bool(self.index > before)


def compose(source: bytes) -> Node | None:
    """Parse the file into nodes that have lines; raises `UnreadableYaml`."""
    try:
        return yaml.compose(source, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableYaml(mark.line + 1 if mark else 1, _problem(error)) from None
    except yaml.reader.ReaderError as error:
        line = source[: error.position].count(b"\n") + 1
        raise UnreadableYaml(line, f"not YAML: {error.reason}") from None
    except RecursionError:
        raise UnreadableYaml(1, "not YAML that can be read: nested too deep") from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    reason = ", ".join(part for part in (error.context, error.problem) if part)
    if r"'\t'" not in reason:
        return f"not YAML: {reason}"
    if error.problem_mark and error.problem_mark.column == 0:
        return "not YAML: a line begins with a tab; indent with spaces"
    return "readers differ about this tab; write spaces"


class NodeReader:
    """Reads nodes of one file. Each method raises `UnreadableYaml` for what JSON cannot hold."""

    def __init__(self) -> None:
        self._values = 0

    def fields(self, node: Node, name: str, depth: int = 0) -> dict[str, Field]:
        """Return the fields of a mapping with those that `<<` merges in.

        Own fields below `<<` replace merged ones. Above it KAS keeps the merged one, and others
        the own one.
        """
        if not isinstance(node, MappingNode) or node.tag != f"{_TAG}map":
            raise UnreadableYaml(line_of(node), f"{name} must be a mapping (`name: value`)")
        own: dict[str, Field] = {}
        merged: dict[str, Field] | None = None
        for key, value in node.value:
            self._count(key, depth)
            is_merge = key.tag == f"{_TAG}merge" and key.value == _MERGE
            field = _MERGE if is_merge else _field_name(key)
            if merged is not None if is_merge else field in own:
                raise UnreadableYaml(line_of(key), f"`{field}` is given twice")
            if is_merge:
                merged = self._merged(value, depth)
                _refuse_replaced(own, merged)
            else:
                own[field] = Field(value, line_of(key))
        return (merged or {}) | own

    def value(self, node: Node, depth: int) -> Any:
        """Return the node's value as JSON has it."""
        self._count(node, depth)
        if isinstance(node, MappingNode):
            fields = self.fields(node, "this", depth)
            return {name: self.value(child.node, depth + 1) for name, child in fields.items()}
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

    def _merged(self, node: Node, depth: int) -> dict[str, Field]:
        """Return the fields that `<<` names; the first of several mappings has precedence."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        fields: dict[str, Field] = {}
        for source in sources:
            fields = self.fields(source, "what `<<` names", depth + 1) | fields
        return fields


def line_of(node: Node) -> int:
    """Return the line on which the node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def is_null(node: Node) -> bool:
    """Whether the node is null, or left empty."""
    is_tagged = isinstance(node, ScalarNode) and node.tag == f"{_TAG}null"
    return is_tagged and node.value in _NULLS


def own_names(node: Node | None) -> Iterator[tuple[str, int]]:
    """Yield the names in a mapping with their lines, without those that `<<` merges in."""
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        if key.tag == _TEXT:
            yield key.value, line_of(key)


def all_fields(node: Node | None) -> Iterator[tuple[Node, Node]]:
    """Yield the names and values in all mappings of the file, each mapping once."""
    waiting, seen = [node], {id(None)}
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield from node.value
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            waiting += node.value


def _refuse_replaced(own: dict[str, Field], merged: dict[str, Field]) -> None:
    for name in own.keys() & merged.keys():
        reason = f"`{name[:40]}` is also in what `<<` names, and KAS takes that one"
        raise UnreadableYaml(own[name].line, f"{reason}; write it below `<<`, or only once")


def _field_name(key: Node) -> str:
    """Return a name that is text: readers of YAML differ about `on:` and `1:`."""
    if not isinstance(key, ScalarNode) or key.tag != _TEXT:
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
    if node.tag == _TEXT and isinstance(node, ScalarNode):
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
