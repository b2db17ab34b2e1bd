"""Sends events from standard input by the CloudEvents SDK and kafka-python: KAFKA PREFIX MODE.

MODE is `binary` or `structured` of the package `cloudevents.kafka` (1.x), `cloudevents.v1.kafka` or
`cloudevents.core` (2.x), such as `v1.kafka-binary`.
"""

import sys
from importlib import import_module
from typing import Any

import events
from kafka import KafkaProducer


def message_of(event: dict[str, Any], package: str, mode: str) -> Any:
    """Return the SDK's headers, key and value of the event."""
    attributes = {name: content for name, content in event.items() if name != "data"}
    if package == "core":
        kind = import_module("cloudevents.core.v1.event").CloudEvent
        bindings = import_module("cloudevents.core.bindings.kafka")
        return getattr(bindings, f"to_{mode}_event")(kind(attributes, event["data"]))
    kind = import_module(f"cloudevents.{package.removesuffix('kafka')}http").CloudEvent
    # Without a media type of the data, `to_binary` fails.
    attributes |= {"datacontenttype": "application/json"}
    convert = getattr(import_module(f"cloudevents.{package}"), f"to_{mode}")
    return convert(kind(attributes, event["data"]))


def main(kafka: str, prefix: str, how: str) -> None:
    package, _, mode = how.rpartition("-")
    producer = KafkaProducer(bootstrap_servers=kafka, acks="all")
    sent = []
    for event in events.read():
        message, topic = message_of(event, package, mode), prefix + events.topic_of(event)
        key, headers = message.key.encode(), [*message.headers.items()]
        count = len(producer.partitions_for(topic))
        for partition in events.partitions_of(event, count):
            future = producer.send(topic, message.value, key, headers, partition)
            sent.append(future)
    for future in sent:
        future.get(30)
    producer.close()


main(*sys.argv[1:])
