"""A recorder of what Debezium and Knative's KafkaSink send to Kafka, by docs/recipes.md.

    .venv/bin/python -m tests.recordings.record [debezium|knative]

It runs Apache Kafka, PostgreSQL and Kafka Connect with Debezium's connector, configured by the
blocks of the document, and writes the records that arrive in Kafka to `debezium.json`. KafkaSink
itself runs in Kubernetes only. `KafkaSink.java` uses the parts that make its records: the Java
SDK's serializer and its interceptor for `partitionkey`. Its records are in `knative.json`.

Needs Java 17, Maven and PostgreSQL. No test runs this: the recordings are the tests' data.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from projector.ports import LOOPBACK, is_listening
from tests.integration import servers
from tests.integration.gitlab.postgres import (
    PASSWORD,
    SUPERUSER,
    Postgres,
    program,
    running_postgres,
)
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually, running
from tests.recordings import DEBEZIUM, HERE, KNATIVE, blocks

POM = HERE / "pom.xml"
VERSIONS = dict(re.findall(r"<(\w+)\.version>(.*?)</", POM.read_text()))
PARTITIONS = 16
TOPICS = ("membership", "agent-config", "job-lifecycle")
WORKER = """
bootstrap.servers={kafka}
listeners=http://127.0.0.1:{port}
offset.storage.file.filename={folder}/offsets
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
"""
SLOT = "SELECT 1 FROM pg_replication_slots WHERE active"

Recorder = Callable[[str, Path, Path], dict[str, Any]]


def record_debezium(kafka: str, jars: Path, folder: Path) -> dict[str, Any]:
    """Run the recipe's SQL under the recipe's connector; return the records."""
    table, *inserts = blocks("sql", DEBEZIUM)
    (connector,) = map(json.loads, blocks("json", DEBEZIUM))
    with running_postgres() as server:
        server.execute(table)
        with running(connect(kafka, connector | place(server), jars, folder)):
            eventually(lambda: bool(server.execute(SLOT)), "the connector's slot")
            for insert in inserts:
                server.execute(insert)
            records = asyncio.run(read(kafka, 1 + PARTITIONS))
        version = program("postgres").split("/")[-3]
    by = f"Debezium {VERSIONS['debezium']}, Kafka Connect {VERSIONS['kafka']}, PostgreSQL {version}"
    recipe = {"connector": connector, "table": table, "inserts": inserts}
    return {"recorded_by": by, "partitions": PARTITIONS, **recipe, "records": records}


def place(server: Postgres) -> dict[str, str]:
    """Return where the connector finds the database, in place of what the recipe has."""
    return {
        "database.hostname": LOOPBACK,
        "database.port": str(server.port),
        "database.user": SUPERUSER,
        "database.password": PASSWORD,
        "database.dbname": "postgres",
    }


def connect(kafka: str, connector: dict[str, str], jars: Path, folder: Path) -> Server:
    """Start a standalone worker of Kafka Connect with the connector."""
    worker, own = folder / "worker.properties", folder / "connector.json"
    worker.write_text(WORKER.format(kafka=kafka, port=free_port(), folder=folder))
    own.write_text(json.dumps({"name": "outbox", "config": connector}))
    command = ["java", "-cp", f"{jars}/*", "org.apache.kafka.connect.cli.ConnectStandalone"]
    return Server([*command, str(worker), str(own)], folder / "connect.log")


def record_knative(kafka: str, jars: Path, _folder: Path) -> dict[str, Any]:
    """Send the recipe's event in both modes; return the records."""
    (event,) = blocks("json", KNATIVE)
    program = ["java", "-cp", f"{jars}/*", str(HERE / "KafkaSink.java"), kafka, "membership"]
    for mode in "BINARY", "STRUCTURED":
        subprocess.run([*program, mode], input=event, check=True, text=True)
    records = asyncio.run(read(kafka, 2))
    by = f"io.cloudevents:cloudevents-kafka {VERSIONS['cloudevents']}"
    event = json.loads(event)
    return {"recorded_by": by, "partitions": PARTITIONS, "event": event, "records": records}


async def read(kafka: str, count: int) -> list[dict[str, Any]]:
    """Read `count` records of all topics, in the order of their partitions."""
    async with AIOKafkaConsumer(
        *TOPICS, bootstrap_servers=kafka, auto_offset_reset="earliest", group_id=None
    ) as consumer:
        found = [await asyncio.wait_for(consumer.getone(), 120) for _ in range(count)]
    found.sort(key=lambda record: (record.topic, record.partition, record.offset))
    return [
        {
            "topic": record.topic,
            "partition": record.partition,
            "key": record.key.decode(),
            "headers": [[name, content.decode()] for name, content in record.headers],
            "value": record.value.decode(),
            "timestamp": record.timestamp,
        }
        for record in found
    ]


def record(name: str, recorder: Recorder, jars: Path) -> None:
    """Run a recorder on a broker of its own; write what the recorder returns."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        kafka = f"127.0.0.1:{port}"
        with running(servers.apache_kafka(Path(folder), port)) as broker:
            eventually(lambda: is_listening(port), f"broker listening: {broker.log()}")
            settings = {"PROJECTOR_KAFKA": kafka, "PROJECTOR_PARTITIONS": str(PARTITIONS)}
            command = [sys.executable, "-m", "projector", "topics"]
            subprocess.run(command, env=os.environ | settings, check=True)
            text = json.dumps(recorder(kafka, jars, Path(folder)), indent=1, ensure_ascii=False)
    (HERE / f"{name}.json").write_text(text + "\n")


def main() -> None:
    """Record what the arguments name, or all."""
    recorders = {"debezium": record_debezium, "knative": record_knative}
    with tempfile.TemporaryDirectory() as jars:
        maven = ["mvn", "--quiet", "--batch-mode", "--file", str(POM)]
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        subprocess.run([*maven, *copy], check=True)
        for name in sys.argv[1:] or recorders:
            record(name, recorders[name], Path(jars))


if __name__ == "__main__":
    main()
