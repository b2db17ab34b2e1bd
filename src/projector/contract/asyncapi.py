"""The AsyncAPI 3.0 document of the events, generated from the code."""

from importlib.metadata import version
from typing import Any, Final

from projector.config.settings import Settings
from projector.contract import json_schemas
from projector.contract.json_schemas import Schema
from projector.events import replay_header
from projector.events.model import (
    DEAD_LETTERS,
    EVENT_TYPES,
    HEARTBEAT,
    LETTER_HEADERS,
    MAX_ID,
    SOURCES,
    Topic,
)
from projector.kafka import topic_configs

VERSION: Final = "3.0.0"
BINDING: Final = "0.5.0"
STRUCTURED: Final = "application/cloudevents+json"
BINARY: Final = "application/json"

_PREFIX: Final = "#/components/schemas/"
_SPEC: Final = "https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents"
_NUMBERED_TOPIC_OPTIONS: Final = ("retention.ms", "max.message.bytes")
_DIGITS: Final[Schema] = {"type": "string", "pattern": "^[0-9]+$"}
_TEXT: Final[Schema] = {"type": "string"}

_BROADCASTS: Final = ", ".join(f"`{name}`" for name, kind in EVENT_TYPES.items() if kind.broadcast)
_ABOUT: Final = f"""\
Which cluster agents may a CI job token use? The projector reads these events from Kafka. Each is a
CloudEvent 1.0 whose `data` is the whole new state of one entity, in structured or in binary mode.

- The record's key is the event's `partitionkey`: the id of the top-level group or user namespace.
- The partition is murmur2 of the key, as the Java client computes it. An event in another
  partition is refused.
- Broadcasts go to every partition of their topic: {_BROADCASTS}.
- Send with `acks=all`. A deployment may put a prefix before each topic's name.
- A heartbeat (`{HEARTBEAT}`) is not such an event. Its topic is `{SOURCES}`, its key its source.

Rules that no schema expresses:

{"".join(f"- {sentence}{chr(10)}" for sentence in json_schemas.UNSAID)}"""

# The events that the projector receives, by topic.
_CHANNELS: Final[dict[str, str]] = {
    Topic.MEMBERSHIP: "Groups, projects, memberships and users.",
    Topic.AGENT_CONFIG: "Agents and whom they are shared with.",
    Topic.JOB_LIFECYCLE: "Jobs and the digests of their tokens.",
    SOURCES: "Heartbeats: up to which offsets a source has sent all that happened in it.",
}
_FINDING: Final = {
    "reason": (_TEXT, "What is wrong, in one sentence."),
    "topic": ({"enum": list(Topic)}, "Where the record was, without the deployment's prefix."),
    "partition": (_DIGITS, "Its partition."),
    "offset": (_DIGITS, "Its offset."),
    "timestamp": ({"type": "string", "pattern": "^-?[0-9]+$"}, "Kafka's timestamp of it, in ms."),
    "time": ({"type": "string", "format": "date-time"}, "When it was refused."),
}


def document() -> dict[str, Any]:
    """Return the whole document, with all schemas it needs."""
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "allowed-agents projector",
            "version": version("allowed-agents-projector"),
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": STRUCTURED,
        "channels": {topic: _channel(topic) for topic in _CHANNELS}
        | {DEAD_LETTERS: _dead_letters_channel()},
        "operations": _operations(),
        "components": {
            "messages": _messages() | {"dead-letter": _dead_letter()},
            "schemas": json_schemas.definitions(_PREFIX),
        },
    }


def _channel(topic: str) -> dict[str, Any]:
    partitions = Settings.model_fields["partitions"].default
    return {
        "address": str(topic),
        "title": str(topic),
        "description": _CHANNELS[topic],
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)
        },
        "bindings": _topic(topic, 1 if topic in topic_configs.ONE_PARTITION else partitions),
    }


def _dead_letters_channel() -> dict[str, Any]:
    return {
        "address": DEAD_LETTERS,
        "title": DEAD_LETTERS,
        "description": "What was refused, or applied although something in it is wrong; and why.",
        "messages": {"dead-letter": {"$ref": "#/components/messages/dead-letter"}},
        "bindings": _topic(DEAD_LETTERS, 1),
    }


def _topic(name: str, partitions: int) -> dict[str, Any]:
    options = {
        option: int(value) if option in _NUMBERED_TOPIC_OPTIONS else value
        for option, value in topic_configs.CONFIGS[name].items()
    }
    configuration = {"cleanup.policy": [topic_configs.CLEANUP], **options}
    return _kafka(topic=name, partitions=partitions, topicConfiguration=configuration)


def _kafka(**binding: Any) -> dict[str, Any]:
    return {"kafka": {**binding, "bindingVersion": BINDING}}


def _operations() -> dict[str, Any]:
    """Return the operations from the projector's side: it receives events and sends letters."""
    group = _kafka(groupId={"type": "string", "description": "`projector`, behind the prefix"})
    received = {
        f"receive-{topic}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{topic}"},
            "summary": f"Send events of {topic} here; the projector receives them.",
            "bindings": group,
        }
        for topic in Topic
    }
    heartbeats = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{SOURCES}"},
        "summary": "Send heartbeats here; workers read them, without a group.",
    }
    letters = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{DEAD_LETTERS}"},
        "summary": "The projector reports what is wrong with an event.",
    }
    return received | {f"receive-{SOURCES}": heartbeats, "send-dead-letters": letters}


# messages


def _message_names(topic: str) -> list[str]:
    """Return each type of the topic in structured and in binary mode."""
    names = [name for name, kind in EVENT_TYPES.items() if kind.topic == topic]
    if topic == SOURCES:
        names.append(HEARTBEAT)
    return [mode for name in names for mode in (name, _binary_name(name))]


def _binary_name(name: str) -> str:
    return f"{name}.binary"


def _messages() -> dict[str, Any]:
    found = {}
    for name in json_schemas.TYPES:
        found[name] = _structured(name)
        found[_binary_name(name)] = _binary(name)
    return found


def _structured(name: str) -> dict[str, Any]:
    schema = json_schemas.structured(name, _PREFIX)
    return {
        "name": name,
        "title": f"{name} (structured)",
        "summary": schema["description"],
        "contentType": STRUCTURED,
        "headers": _headers({"content-type": {"type": "string", "pattern": f"^{STRUCTURED}"}}, []),
        "payload": {part: schema[part] for part in schema if part not in ("examples", "title")},
        "bindings": _key(name),
        "examples": [{"payload": example} for example in schema["examples"]],
    }


def _binary(name: str) -> dict[str, Any]:
    """Return the message in binary mode: attributes are headers, and the value is `data`."""
    schema = json_schemas.structured(name, _PREFIX)
    attributes = json_schemas.attributes(name, _PREFIX)
    required = [f"ce_{field}" for field in schema["required"] if f"ce_{field}" in attributes]
    return {
        "name": name,
        "title": f"{name} (binary)",
        "summary": schema["description"],
        "contentType": BINARY,
        "headers": _headers({"content-type": {"const": BINARY}} | attributes, required),
        "payload": {"allOf": [schema["properties"]["data"], {"$ref": f"{_PREFIX}Tokenless"}]},
        "bindings": _key(name),
        "examples": [_binary_example(example) for example in schema["examples"]],
    }


def _headers(properties: dict[str, Schema], required: list[str]) -> Schema:
    replayed = {
        "type": "string",
        "pattern": replay_header.PATTERN,
        "description": "Only of a replayed event: the offset and Kafka's timestamp (ms) of its "
        "original in the same partition.",
    }
    headers: Schema = {
        "type": "object",
        "properties": {**properties, replay_header.HEADER: replayed},
    }
    return headers | ({"required": required} if required else {})


def _binary_example(example: dict[str, Any]) -> dict[str, Any]:
    headers = {f"ce_{name}": value for name, value in example.items() if name != "data"}
    return {"headers": {"content-type": BINARY, **headers}, "payload": example["data"]}


def _key(name: str) -> dict[str, Any]:
    pattern = json_schemas.attributes(name, _PREFIX)["ce_partitionkey"]["pattern"]
    about = f"The event's `partitionkey`: an id up to {MAX_ID}, as digits."
    if name == HEARTBEAT:
        about = "The source's name, `data.source`."
    return _kafka(key={"type": "string", "pattern": pattern, "description": about})


def _dead_letter() -> dict[str, Any]:
    headers = {
        f"{LETTER_HEADERS}{name}": {**shape, "description": about}
        for name, (shape, about) in _FINDING.items()
    }
    return {
        "name": "dead-letter",
        "title": "A dead letter",
        "summary": "The record as it was, without tokens, and what is wrong with it. Its other "
        "headers are kept.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "properties": headers, "required": list(headers)},
        "payload": {"description": "The record's own value: any bytes, or none."},
        "bindings": _kafka(key={"description": "The record's own key: any bytes, or none."}),
        "externalDocs": {"url": f"{_SPEC}/bindings/kafka-protocol-binding.md"},
    }
