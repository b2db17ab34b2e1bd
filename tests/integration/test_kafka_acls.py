"""ACLs of Kafka: the commands of docs/security.md give each role only what it needs."""

import asyncio
import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from projector.config.settings import Settings
from projector.ports import is_listening
from tests import builders
from tests.heartbeat_sender import HeartbeatSender, sending
from tests.integration import servers
from tests.integration.conftest import apache_or_skip
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.ports import free_port
from tests.integration.secure_servers import PASSWORD, Certificates, SecureKafka
from tests.integration.servers import REPOSITORY, Server, eventually, running

ROLES = ("admin", "worker", "feeder", "operator")
# Codes of Kafka's protocol: org.apache.kafka.common.resource and .acl.
RESOURCES: Final = {"--topic": 2, "--group": 3}
OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
LITERAL = ALLOW = 3
LETTERS = ("dead-letters", "list")


def documented() -> Iterator[CreateAclsRequest]:
    text = (REPOSITORY / "docs" / "security.md").read_text()
    for line in re.findall(r"^kafka-acls (.*)$", text, re.MULTILINE):
        words = shlex.split(line)
        pairs = list(zip(words[::2], words[1::2], strict=True))
        (who,) = (value for name, value in pairs if name == "--allow-principal")
        operations = [value for name, value in pairs if name == "--operation"]
        resources = [(RESOURCES[name], value) for name, value in pairs if name in RESOURCES]
        assert len(pairs) == 1 + len(operations) + len(resources)
        for operation, (kind, name) in product(operations, resources):
            yield CreateAclsRequest(kind, name, LITERAL, who, "*", OPERATIONS[operation], ALLOW)


async def grant(kafka: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        for right in documented():
            answer = await admin._send_request(right)
            assert answer.creation_responses[0][0] == 0, answer
    finally:
        await admin.close()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecureKafka, Certificates]]:
    apache_or_skip("apache")
    certificates = Certificates.make(tmp_path_factory.mktemp("certificates"))
    kafka = SecureKafka(
        tmp_path_factory.mktemp("kafka"),
        certificates,
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # The listener that the test uses for setup.
        "super.users=User:ANONYMOUS",
        *(f"--add-scram=SCRAM-SHA-512=[name={role},password={PASSWORD}]" for role in ROLES),
    )
    with running(kafka.server):
        eventually(lambda: all(map(is_listening, kafka.ports)), f"Kafka: {kafka.server.log()}")
        asyncio.run(grant(kafka.plaintext))
        yield kafka, certificates


@pytest.fixture
def deployment(kafka: tuple[SecureKafka, Certificates], tmp_path: Path) -> Iterator[Deployment]:
    broker, certificates = kafka
    port = free_port()
    with servers.running(servers.valkey(tmp_path, port)):
        eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment(broker.plaintext, port, "", tmp_path) as deployment:
            deployment.env |= {
                "PROJECTOR_KAFKA": broker.sasl_ssl,
                "PROJECTOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "PROJECTOR_KAFKA_PASSWORD": PASSWORD,
                "PROJECTOR_KAFKA_CA_FILE": str(certificates.authority),
            }
            yield deployment


def run(deployment: Deployment, role: str, *command: str, stdin: str = "") -> tuple[int, str]:
    deployment.env["PROJECTOR_KAFKA_USERNAME"] = role
    done = deployment.command(*command, stdin=stdin)
    return done.returncode, done.stdout + done.stderr


def test_each_role_can_do_its_work_and_nothing_else(deployment: Deployment) -> None:
    assert run(deployment, "feeder", "topics")[0] == 2
    assert run(deployment, "admin", "topics")[0] == 0
    deployment.env["PROJECTOR_SOURCES"] = "gitlab"
    worker = deployment.start("worker", PROJECTOR_KAFKA_USERNAME="worker")
    deployment.start_api()
    deployment.env["PROJECTOR_KAFKA_USERNAME"] = "feeder"
    with sending(HeartbeatSender(sender_settings(deployment), PARTITIONS)):
        do_each_work(deployment, worker)


def sender_settings(deployment: Deployment) -> Settings:
    names = {name.removeprefix("PROJECTOR_").lower(): text for name, text in deployment.env.items()}
    return Settings(**{name: text for name, text in names.items() if name.startswith("kafka")})  # type: ignore[arg-type]


def do_each_work(deployment: Deployment, worker: Server) -> None:
    deployment.until_fresh()
    deployment.feed(builders.group(3), builders.project(7, 3), builders.started(9, 7))
    deployment.until("token-9", 200)

    deployment.produce(b"{not json", topic="membership")
    eventually(lambda: "1 dead letter in" in run(deployment, "operator", *LETTERS)[1], "the letter")
    status, output = run(deployment, "operator", "status", "--wait", "30")
    assert status == 0, output
    assert "AuthorizationFailed" not in worker.log()

    event = '{"specversion":"1.0","id":"1","source":"s","type":"group.removed","partitionkey":"3",'
    event += '"data":{"id":3}}'
    for role in ("worker", "operator"):
        status, output = run(deployment, role, "feed", "-", stdin=event)
        assert status == 2
        assert "See docs/security.md" in output
    status, output = run(deployment, "feeder", *LETTERS)
    assert status == 2
    assert "See docs/security.md" in output
    assert deployment.look_up("token-9").status == 200
    assert PASSWORD not in worker.log() + output
