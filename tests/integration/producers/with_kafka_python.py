"""Sends events from standard input by kafka-python: KAFKA PREFIX."""

import json
import sys

import events
from kafka import KafkaProducer


def main(kafka: str, prefix: str) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka, acks="all")
    sent = []
    for event in events.read():
        topic, key = prefix + events.topic_of(event), event["partitionkey"].encode()
        count = len(producer.partitions_for(topic))
        for partition in events.partitions_of(event, count):
            sent.append(producer.send(topic, json.dumps(event).encode(), key, partition=partition))
    for future in sent:
        future.get(30)
    producer.close()


main(*sys.argv[1:])
