"""The AsyncAPI document: its references, examples and headers."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from projector.contract import asyncapi
from projector.contract.files import contract
from projector.events.cloudevents import decode_event
from projector.events.heartbeats import decode_heartbeat
from projector.events.model import EVENT_TYPES, HEARTBEAT, SOURCES, SourceRecord, Topic
from projector.kafka import dead_letters, topic_configs
from tests import builders
from tests.unit.contract.validation import Validator

CONTRACT = contract()
DOCUMENT: dict[str, Any] = yaml.safe_load(CONTRACT["asyncapi.yaml"])
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]


def test_the_document_reads_back_as_it_was_made() -> None:
    assert json.loads(json.dumps(asyncapi.document())) == DOCUMENT


def test_every_reference_of_the_document_leads_somewhere() -> None:
    references = set(re.findall(r"\$ref: '#/([^']+)'", CONTRACT["asyncapi.yaml"]))
    assert references
    for reference in references:
        node: Any = DOCUMENT
        for step in reference.split("/"):
            node = node[step]
        assert node


def test_every_type_is_in_the_channel_of_its_topic_in_both_modes() -> None:
    for topic in Topic:
        own = {name for name, kind in EVENT_TYPES.items() if kind.topic is topic}
        messages = set(DOCUMENT["channels"][topic.value]["messages"])
        assert messages == own | {f"{name}.binary" for name in own}


def test_heartbeats_are_in_a_channel_of_their_own() -> None:
    channel = DOCUMENT["channels"][SOURCES]
    assert set(channel["messages"]) == {HEARTBEAT, f"{HEARTBEAT}.binary"}
    kafka = channel["bindings"]["kafka"]
    assert (kafka["topic"], kafka["partitions"]) == (SOURCES, 1)
    retention = kafka["topicConfiguration"]["retention.ms"]
    assert retention == 24 * 3600 * 1000 == int(topic_configs.CONFIGS[SOURCES]["retention.ms"])
    assert DOCUMENT["operations"]["receive-sources"]["channel"] == {"$ref": "#/channels/sources"}


def test_the_examples_of_heartbeats_count_in_both_modes_under_the_key_they_name() -> None:
    key = re.compile(MESSAGES[HEARTBEAT]["bindings"]["kafka"]["key"]["pattern"])
    first, second = (message["payload"] for message in MESSAGES[HEARTBEAT]["examples"])
    assert [first["data"].get("after"), second["data"].get("after")] == [None, 101]
    for example in MESSAGES[f"{HEARTBEAT}.binary"]["examples"]:
        name = example["payload"]["source"]
        assert key.search(name)
        headers = tuple((k, str(v).encode()) for k, v in example["headers"].items())
        value = json.dumps(example["payload"]).encode()
        binary = decode_heartbeat(SourceRecord(102, name.encode(), value, headers), 2)
        whole = first if binary.after is None else second
        assert binary == decode_heartbeat(builders.heartbeat_record(whole, 102, key=b"acme"), 2)


def in_document(schema: dict[str, Any]) -> Any:
    return Validator({**schema, "components": DOCUMENT["components"]})


@pytest.mark.parametrize("name", MESSAGES)
def test_the_examples_of_a_message_keep_to_it(name: str) -> None:
    message = MESSAGES[name]
    for example in message.get("examples", []):
        in_document(message["payload"]).validate(example["payload"])
        in_document(message["headers"]).validate(example.get("headers", {}))


def test_a_binary_message_is_told_by_headers_what_a_structured_one_says_itself() -> None:
    for name in EVENT_TYPES:
        for example in MESSAGES[f"{name}.binary"]["examples"]:
            headers = tuple((k, str(v).encode()) for k, v in example["headers"].items())
            value = json.dumps(example["payload"]).encode()
            event = decode_event(
                builders.record(value, headers=headers, topic=EVENT_TYPES[name].topic)
            )
            assert (event.type, event.warning) == (name, None)
            for header in ("ce_type", "ce_partitionkey"):
                missing = {k: v for k, v in example["headers"].items() if k != header}
                is_valid = in_document(MESSAGES[f"{name}.binary"]["headers"]).is_valid(missing)
                # The record's key is the partitionkey, too.
                assert is_valid == (header == "ce_partitionkey")


def test_a_dead_letter_has_the_headers_that_the_document_names() -> None:
    letter = dead_letters.DeadLetter(builders.record(builders.group(3)), "it is wrong")
    now = datetime.now(UTC)
    _, _, headers = dead_letters.compose_dead_letter(letter, now)
    sent = {name: (content or b"").decode() for name, content in headers}
    assert set(sent) == set(MESSAGES["dead-letter"]["headers"]["required"])
    in_document(MESSAGES["dead-letter"]["headers"]).validate(sent)
