"""The OpenAPI document: the events by type, in each mode, and the answers, with examples."""

from typing import Any, Final

from projector.contract import json_schemas
from projector.events.header_attributes import NAMES
from projector.events.model import HEARTBEAT
from projector.ingest.http_events import BATCH_TYPE, JSON_TYPE, MAX_BATCH_EVENTS, STRUCTURED_TYPE

ABOUT: Final = "CloudEvents 1.0 over HTTP, for teams without Kafka. See docs/ingest.md."
_PREFIX: Final = "#/components/schemas/"
_MESSAGE: Final = {"type": "string"}


def _refusal(
    description: str, *headers: str, example: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {name: {"schema": {"type": "string"}} for name in headers},
        "content": {"application/json": {"schema": {
            "type": "object", "required": ["message"], "properties": {"message": _MESSAGE, **more},
        }, "example": example}},
    }  # fmt: skip


_FINDINGS: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["index", "reason"],
        "properties": {"index": {"type": "integer", "minimum": 0}, "reason": _MESSAGE},
    },
}


def _found(reason: str) -> dict[str, Any]:
    return {"message": "nothing was sent", "errors": [{"index": 0, "reason": reason}]}


_HEARTBEAT: Final = {
    "type": "object",
    "properties": {"source": _MESSAGE, "offset": {"type": ["integer", "null"]}},
}
_HEARTBEAT_DATA: Final = "FeederHeartbeat"
_HEARTBEAT_EXAMPLE: Final = {
    "specversion": "1.0", "id": "h1", "source": "/example", "type": HEARTBEAT,
    "data": {"source": "acme", "after": None},
}  # fmt: skip
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "As 204, with something to read: parts that are not applied, or the "
        "offset of a heartbeat, which is the next one's `after`",
        "content": {"application/json": {"schema": {
            "type": "object", "properties": {"warnings": _FINDINGS, "heartbeat": _HEARTBEAT},
        }, "example": {"heartbeat": {"source": "acme", "offset": 101}}}},
    },
    202: _refusal(
        "As 204, but the views do not contain the events within the time of `Prefer: wait`",
        example={"message": "acknowledged by Kafka, but not yet in the views"},
        warnings=_FINDINGS, heartbeat=_HEARTBEAT,
    ),
    204: {"description": "Kafka has acknowledged every event"},
    400: _refusal("Bad events, or a body that cannot be read; nothing was sent",
                  example=_found("`data.id` is missing"), errors=_FINDINGS),
    401: _refusal("No token, or an unknown one", "WWW-Authenticate",
                  example={"message": "the token is not known"}),
    403: _refusal("Events that this token may not send; nothing was sent",
                  example=_found("this token may not send user.set"), errors=_FINDINGS),
    408: _refusal("The body was too slow", example={"message": "the body did not arrive"}),
    413: _refusal("Too large, or too many events", example={"message": "an event has at most ..."}),
    415: _refusal("Another media type, charset or encoding", "Accept", "Accept-Encoding",
                  example={"message": "the charset must be utf-8"}),
    429: _refusal("Too many requests or bytes of this token are under way", "Retry-After",
                  example={"message": "16 requests of this token are under way"}),
    500: _refusal("A fault of the ingest", example={"message": "the ingest failed; see its log"}),
    503: _refusal("Kafka or its topics cannot be used now; send the whole request again",
                  "Retry-After", example={"message": "Kafka cannot be reached"}),
}  # fmt: skip
EVENTS: Final[dict[str, Any]] = {"responses": _RESPONSES}


def describe(schema: dict[str, Any]) -> dict[str, Any]:
    """Complete the document of the application by the bodies and the tokens."""
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    components["schemas"] = {
        **components.get("schemas", {}),
        **json_schemas.definitions(_PREFIX),
        **{name: _event(name) for name in json_schemas.TYPES},
        _HEARTBEAT_DATA: _heartbeat_data(),
        "Event": {"oneOf": [{"$ref": _PREFIX + name} for name in json_schemas.TYPES]},
    }
    operation = schema["paths"]["/events"]["post"]
    operation["security"] = [{"bearer": []}]
    operation["parameters"] = _parameters()
    operation["requestBody"] = _bodies()
    return schema


def _event(name: str) -> dict[str, Any]:
    """Return the schema of a type: a request has no record's key, and a heartbeat no offsets."""
    shape = json_schemas.structured(name, _PREFIX)
    if name != HEARTBEAT:
        return shape | {"required": [*shape["required"], "partitionkey"]}
    data = {"data": {"$ref": _PREFIX + _HEARTBEAT_DATA}}
    return shape | {"properties": shape["properties"] | data, "examples": [_HEARTBEAT_EXAMPLE]}


def _heartbeat_data() -> dict[str, Any]:
    whole = json_schemas.definitions(_PREFIX)["SourceHeartbeat"]
    properties = {name: whole["properties"][name] for name in ("source", "after")}
    return {
        "type": "object", "required": ["source"],
        "properties": {**properties, "offsets": False},
    }  # fmt: skip


def _parameters() -> list[dict[str, Any]]:
    """Return the headers: preferences, and in binary mode the attributes."""
    headers = {
        "Prefer": "`wait=5`: answer once the views contain the events, or after 5 seconds; "
        "`handling=strict`: refuse what would be applied in part",
        **{f"ce-{name}": f"binary mode: the attribute `{name}`" for name in NAMES},
    }
    return [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": about}
        for name, about in headers.items()
    ]


def _bodies() -> dict[str, Any]:
    event = {"$ref": f"{_PREFIX}Event"}
    found = {name: examples[0] for name, examples in json_schemas.examples().items()}
    found[HEARTBEAT] = _HEARTBEAT_EXAMPLE
    batch = [found["group.set"], found["project.set"], found["job.started"]]
    data = found["group.set"]["data"]
    return {
        "required": True,
        "content": {
            STRUCTURED_TYPE: {
                "schema": event,
                "examples": {name: {"value": example} for name, example in found.items()},
            },
            BATCH_TYPE: {
                "schema": {"type": "array", "items": event, "maxItems": MAX_BATCH_EVENTS},
                "examples": {"several": {"value": batch}},
            },
            JSON_TYPE: {
                "schema": {"type": "object", "description": "binary mode: `data` alone"},
                "examples": {"group.set": {"value": data}},
            },
        },
    }
