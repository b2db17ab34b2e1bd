"""JSON Schemas (2020-12) of events and heartbeats, generated from the classes that decode them.

The schemas describe the events that `projector feed` accepts, and the heartbeats that workers do.
A worker also applies revocations that have readable ids and are otherwise invalid. `UNSAID` lists
the rules that no schema expresses.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from projector.events import ci_access
from projector.events.cloudevents import Envelope
from projector.events.heartbeats import HeartbeatEnvelope, SourceHeartbeat
from projector.events.model import (
    EVENT_TYPES,
    HEARTBEAT,
    MAX_EVENT_BYTES,
    MAX_ID,
    MAX_NESTING,
    ROLES,
    SOURCES,
    EventType,
    Instant,
)
from projector.events.redaction import SECRET_FIELDS, TOKEN

Schema = dict[str, Any]

TYPES: Final = (*EVENT_TYPES, HEARTBEAT)
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
UNSAID: Final = (
    f"A record's value has at most {MAX_EVENT_BYTES} bytes.",
    f"`data` has at most {MAX_NESTING} objects and arrays inside one another.",
    "`12.0` and `1e3` are integers for JSON Schema, but not here.",
    "A day must exist: the 30th of February and the year 0000 are refused.",
    f"Of each list in `ci_access` only the first {ci_access.MAX_ENTRIES} entries are read.",
    "A token is also found in a field that is given twice.",
    "An event without `partitionkey` has it as its record's key.",
    "A heartbeat's key is the text of `data.source`; a `partitionkey`, if any, is the same.",
    "`data.offsets` has an offset for each partition of the topics in Kafka.",
    "`data.after` is an earlier heartbeat of the source. No offset is beyond its partition's end.",
)

_NULL: Final[Schema] = {"type": "null"}
_ID: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_DATE: Final = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
_OFFSET: Final = "([Zz]|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])"


def event(name: str) -> Schema:
    """Return the schema of a whole event of this type, with all definitions it needs."""
    prefix = "#/$defs/"
    schema = structured(name, prefix)
    return {
        "$schema": DIALECT,
        "$id": f"urn:allowed-agents-projector:{name}",
        **schema,
        "$defs": _reachable(schema, definitions(prefix), prefix),
    }


def structured(name: str, prefix: str) -> Schema:
    """Return the schema of an event in structured mode; `prefix` is where definitions are."""
    attributes, data, about, key = _parts(name)
    envelope = _structs(prefix)[attributes.__name__]
    own: Schema = {
        "type": {**_TEXT, "pattern": _type(name), "description": _TYPE.format(name=name)},
        "data": {"$ref": prefix + data.__name__},
        "partitionkey": {**envelope["properties"]["partitionkey"], "description": key},
    }
    properties = {field: shape for field, shape in envelope["properties"].items() if shape}
    return {
        "title": name,
        "description": about,
        "type": "object",
        "properties": properties | own,
        "required": [*envelope["required"], "data"],
        "allOf": [{"$ref": f"{prefix}Tokenless"}],
        "examples": examples()[name],
    }


def attributes(name: str, prefix: str) -> dict[str, Schema]:
    """Return the schemas of the headers in binary mode: all but `data`, and never null."""
    properties = structured(name, prefix)["properties"]
    return {f"ce_{field}": _given(shape) for field, shape in properties.items() if field != "data"}


def definitions(prefix: str) -> dict[str, Schema]:
    """Return the schema of every part of events, by its name."""
    envelopes = (Envelope.__name__, HeartbeatEnvelope.__name__)
    shapes = {name: shape for name, shape in _structs(prefix).items() if name not in envelopes}
    _add_membership(shapes)
    for kind in (ci_access.Impersonate, ci_access.Extra):
        shapes[kind.__name__]["propertyNames"] = _spelt_right(kind.__struct_fields__)
    for field in ("projects", "groups"):
        shapes["CiAccess"]["properties"][field] = _or_null(
            {"type": "array", "items": {"$ref": f"{prefix}Entry"}}
        )
    shapes["InstanceAgentSet"]["properties"]["configuration"] = {"$ref": f"{prefix}Configuration"}
    return shapes | {
        "Time": _time(),
        "Entry": _entry(prefix),
        "Configuration": _configuration(prefix),
        "AccessAs": _access_as(prefix),
        "Tokenless": _tokenless(prefix),
    }


def examples() -> dict[str, list[Any]]:
    """Return whole events of every type, the examples of docs/events.md."""
    found: dict[str, list[Any]] = {name: [] for name in TYPES}
    for line in (files("projector") / "examples.ndjson").read_text().splitlines():
        example = msgspec.json.decode(line)
        found[example["type"]].append(example)
    return found


# from the classes


def _structs(prefix: str) -> dict[str, Schema]:
    """Return a copy that the caller may change."""
    tidy: dict[str, Schema] = _tidy(_components(prefix))
    return tidy


@cache
def _components(prefix: str) -> dict[str, Schema]:
    data = [kind.data for kind in EVENT_TYPES.values()]
    types = [Envelope, HeartbeatEnvelope, ci_access.Impersonate, *data, SourceHeartbeat]

    def hook(kind: type) -> Schema:
        if kind is Instant:
            return {"$ref": f"{prefix}Time"}
        raise NotImplementedError(kind)

    _, shapes = msgspec.json.schema_components(
        types, schema_hook=hook, ref_template=prefix + "{name}"
    )
    return shapes


def _tidy(node: Any) -> Any:
    """Write Python's `\\Z` as the `$` of other languages; drop empty `required`, join lines."""
    if isinstance(node, list):
        return [_tidy(child) for child in node]
    if not isinstance(node, dict):
        return node
    kept = {name: _tidy(child) for name, child in node.items() if (name, child) != ("required", [])}
    if isinstance(pattern := kept.get("pattern"), str):
        kept["pattern"] = pattern.removesuffix(r"\Z") + "$"
    if isinstance(about := kept.get("description"), str):
        kept["description"] = " ".join(about.split())
    return kept


# from the code behind the classes


_PARTITIONKEY: Final = "The id of the root namespace; may be left out if the record's key is it."
_SOURCE_KEY: Final = "The source's name, which is the record's key; may be left out."
_TYPE: Final = "`{name}`, with or without a reverse-DNS prefix that ends in a dot"


def _parts(name: str) -> tuple[type, Any, str, str]:
    """Return the classes of the attributes and of `data`, and what type and partitionkey mean."""
    if name == HEARTBEAT:
        about = f"{SourceHeartbeat.__doc__} Topic: {SOURCES}."
        return HeartbeatEnvelope, SourceHeartbeat, " ".join(about.split()), _SOURCE_KEY
    kind = EVENT_TYPES[name]
    return Envelope, kind.data, _description(kind), _PARTITIONKEY


def _type(name: str) -> str:
    return rf"(^|\.){name.replace('.', chr(92) + '.')}$"


def _description(kind: EventType) -> str:
    sentences = [kind.data.__doc__ or "", f"Topic: {kind.topic}."]
    if kind.broadcast:
        sentences.append("A broadcast: to be sent to every partition of its topic.")
    if kind.revokes:
        sentences.append("Applied if its ids can be read, even if the rest is wrong.")
    return " ".join(sentences)


def _add_membership(shapes: dict[str, Schema]) -> None:
    """Require either a group or a project, and a role by name in any case or by number."""
    scopes = ("group_id", "project_id")
    for name in ("MemberSet", "MemberRemoved"):
        shapes[name]["oneOf"] = [
            {"required": [own], "properties": {own: _ID, other: _NULL}}
            for own, other in (scopes, scopes[::-1])
        ]
    names = "|".join(_any_case(role) for role in ROLES)
    numbers = {"type": "integer", "minimum": 0, "maximum": max(ROLES.values())}
    shapes["MemberSet"]["properties"]["role"] = {
        "description": ", ".join(f"{role} {level}" for role, level in ROLES.items()),
        "anyOf": [numbers, {"type": "string", "pattern": f"^({names})$"}],
    }


def _time() -> Schema:
    instant = {"format": "date-time", "pattern": f"^{_DATE}[Tt ]{_TIME}{_OFFSET}$"}
    day = {"format": "date", "pattern": f"^{_DATE}$"}
    return {
        "description": "RFC 3339 with an offset, or a date, which is its midnight in UTC.",
        "anyOf": [{"type": "string", **instant}, {"type": "string", **day}],
    }


def _entry(prefix: str) -> Schema:
    return {
        "description": "A project or group with which an agent's `config.yaml` shares it. The `id` "
        "is a path or a number; all other fields are the agent's configuration there.",
        "type": "object",
        "properties": {"id": {"anyOf": [_ID, _TEXT]}},
        "required": ["id"],
        "allOf": [{"$ref": f"{prefix}Configuration"}],
    }


def _configuration(prefix: str) -> Schema:
    return {
        "description": "An agent's configuration, as far as KAS must be able to read it.",
        "type": "object",
        "properties": {
            "default_namespace": _or_null({"type": "string"}),
            "access_as": _or_null({"$ref": f"{prefix}AccessAs"}),
        },
        "propertyNames": _spelt_right(ci_access.FIELDS),
    }


def _access_as(prefix: str) -> Schema:
    shapes = {name: {"type": "object"} for name in ci_access.IDENTITIES}
    shapes["impersonate"] = {"$ref": f"{prefix}{ci_access.Impersonate.__name__}"}
    return {
        "description": f"Exactly one of {', '.join(ci_access.IDENTITIES)}.",
        "type": "object",
        "oneOf": [
            {
                "required": [own],
                "properties": {name: shapes[name] if name == own else _NULL for name in shapes},
            }
            for own in shapes
        ],
        "propertyNames": _spelt_right(ci_access.IDENTITIES),
    }


def _spelt_right(known: Iterable[str]) -> Schema:
    """Refuse known names in another case or with other separators, which KAS does not read."""
    spellings = "|".join(_any_case(ci_access.spellings(name)) for name in known)
    return {"anyOf": [{"enum": list(known)}, {"not": {"pattern": f"^({spellings})$"}}]}


def _tokenless(prefix: str) -> Schema:
    fields = "|".join(_any_case(name).replace("_", "[_-]") for name in SECRET_FIELDS)
    itself = {"$ref": f"{prefix}Tokenless"}
    return {
        "description": "No job token anywhere; send `token_sha256`.",
        "not": {"type": "string", "pattern": TOKEN},
        "propertyNames": {"not": {"pattern": f"^({fields})$|{TOKEN}"}},
        "additionalProperties": itself,
        "items": itself,
    }


# shapes


def _or_null(shape: Schema) -> Schema:
    return {"anyOf": [shape, _NULL]}


def _given(shape: Schema) -> Schema:
    """Return the schema without null and default: the header is present or left out."""
    given: Schema = next((one for one in shape.get("anyOf", []) if one != _NULL), {})
    whole = shape | given
    return {name: part for name, part in whole.items() if name not in ("default", "anyOf")}


def _any_case(name: str) -> str:
    """Return a pattern for `name` in any case; not every language has `(?i)`."""
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in name)


def _reachable(schema: Schema, shapes: dict[str, Schema], prefix: str) -> dict[str, Schema]:
    needed: dict[str, Schema] = {}
    pending = list(_references(schema))
    while pending:
        name = pending.pop().removeprefix(prefix)
        if name not in needed:
            needed[name] = shapes[name]
            pending.extend(_references(shapes[name]))
    return {name: needed[name] for name in sorted(needed)}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for child in node:
            yield from _references(child)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
