"""Sends events from standard input by confluent-kafka, which is librdkafka: KAFKA PREFIX."""

import json
import sys
from typing import Any

import events
from confluent_kafka import KafkaError, Producer

failed = []


def note(error: KafkaError | None, _message: Any) -> None:
    if error is not None:
        failed.append(error)


def main(kafka: str, prefix: str) -> None:
    settings = {"bootstrap.servers": kafka, "acks": "all", "partitioner": "murmur2_random"}
    producer = Producer(settings)
    for event in events.read():
        topic = prefix + events.topic_of(event)
        count = len(producer.list_topics(topic, 30).topics[topic].partitions)
        for partition in events.partitions_of(event, count):
            own = {} if partition is None else {"partition": partition}
            value, key = json.dumps(event).encode(), event["partitionkey"].encode()
            producer.produce(topic, value, key, on_delivery=note, **own)
    if producer.flush(30) or failed:
        sys.exit(f"not acknowledged: {failed}")


main(*sys.argv[1:])
