"""The chart in deploy/helm: its containers start, answer their probes, and work together."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from projector.ports import is_listening
from tests import builders
from tests.integration import processes, secure_servers, servers
from tests.integration.conftest import apache_or_skip
from tests.integration.containers import Installation
from tests.integration.deployment import PATH
from tests.integration.helm.chart import helm_or_skip
from tests.integration.ports import free_port
from tests.integration.secure_servers import NAME, PASSWORD, USER, Certificates, SecureKafka
from tests.integration.servers import REPOSITORY, eventually, running
from tests.job_tokens import ISSUER, signing_key

IMAGE = {"repository": "registry.example.com/allowed-agents-projector"}
OPS_TOKEN = "credential-of-the-page"
FEEDER_TOKEN = "token-of-the-feeder"
KEY = signing_key().pem.decode()


@pytest.fixture(autouse=True)
def _helm() -> None:
    helm_or_skip()


@pytest.fixture
def started() -> Iterator[Callable[[Installation, str], str]]:
    """Return a function that starts a container and returns its address."""
    with ExitStack() as stack:

        def start(installation: Installation, part: str) -> str:
            server, address = installation.start(part)
            stack.enter_context(running(server))
            paths = installation.paths(part)

            def probed() -> bool:
                assert server.process.poll() is None, server.log()
                return all(status(address + path) == 200 for path in paths)

            eventually(probed, f"the probes of {part}")
            return address

        yield start


def status(url: str, **headers: str) -> int:
    try:
        return httpx.get(url, headers=headers, timeout=5).status_code
    except httpx.TransportError:
        return 0


def values(kafka: dict[str, Any], redis: dict[str, Any], **more: Any) -> dict[str, Any]:
    settings = {
        "PROJECTOR_TOPIC_PREFIX": f"helm{free_port()}.", "PROJECTOR_PARTITIONS": 4,
        "PROJECTOR_SESSION_TIMEOUT": 6, "PROJECTOR_MAX_VIEW_BYTES": 1048576,
    }  # fmt: skip
    return {"image": IMAGE, "kafka": kafka, "redis": redis, "settings": settings, **more}


def test_all_containers_run_and_work_together(
    address_of: Callable[[str], str], tmp_path: Path,
    started: Callable[[Installation, str], str],
) -> None:  # fmt: skip
    tokens = [{
        "name": "acme", "token_sha256": hashlib.sha256(FEEDER_TOKEN.encode()).hexdigest(),
        "types": ["*"], "partitionkeys": "*", "sources": "*", "agents": "*",
    }]  # fmt: skip
    before = {
        "redis-password": {"password": f"{PASSWORD}\n"},
        "ops-token": {"token": OPS_TOKEN},
        "ingest-tokens": {"tokens.yaml": yaml.safe_dump(tokens)},
    }
    port = free_port()
    chosen = values(
        {"brokers": address_of("embedded")},
        {"url": f"redis://127.0.0.1:{port}/0", "user": {"secret": "redis-password"}},
        ops={"enabled": True, "tokenSecret": "ops-token"},
        ingest={"enabled": True, "tokensSecret": "ingest-tokens"},
        api={"jobTokens": {"issuer": ISSUER, "publicKeys": {"a.pem": KEY, "b.pem": KEY}}},
        pods={"extraEnv": [{"name": "OTEL_SDK_DISABLED", "value": "true"}]},
    )
    installation = Installation(chosen, before, tmp_path)
    with running(servers.valkey(tmp_path, port, "--requirepass", PASSWORD)):
        eventually(lambda: is_listening(port), "Valkey listening")
        topics = installation.run("topics")
        assert topics.returncode == 0, topics.stderr
        started(installation, "worker")
        api, ops, ingest = (started(installation, part) for part in ("api", "ops", "ingest"))
        assert installation.test(api).returncode == 0
        assert installation.test(ops).returncode != 0  # it has no /health/ready

        sent = httpx.post(
            f"{ingest}/events", timeout=30,
            json=[builders.group(3), builders.project(7, 3), builders.started(9, 7)],
            headers={"Authorization": f"Bearer {FEEDER_TOKEN}",
                     "Content-Type": "application/cloudevents-batch+json", "Prefer": "wait=20"},
        )  # fmt: skip
        assert sent.is_success, sent.text
        look_up = {"Job-Token": "token-9"}
        eventually(lambda: status(api + PATH, **look_up) == 200, "the token answered")
        page = f"{ops}/ops/data/status"
        assert status(page) == 401
        assert status(page, Authorization=f"Bearer {OPS_TOKEN}") == 200
        assert all(status(f"{address}/metrics") == 200 for address in (api, ingest))
        # As `kubectl exec deployment/agents-worker -- projector status` would.
        shown = processes.run("projector", ["status"], installation.env("worker"), "", timeout=60)
        assert shown.returncode == 0, shown.stdout + shown.stderr


def test_containers_find_their_certificates_and_passwords(
    tmp_path: Path, started: Callable[[Installation, str], str]
) -> None:
    apache_or_skip("apache")
    secure_servers.redis_or_skip()
    certificates = Certificates.make(tmp_path)
    kafka, port = SecureKafka(tmp_path, certificates), free_port()
    users = REPOSITORY / "deploy" / "redis" / "users.acl"
    before = {
        "kafka": {"ca.crt": certificates.authority.read_text(), "password": PASSWORD},
        "redis-url": {"url": f"rediss://{NAME}:{port}/0"},
        "redis-ca": {"ca.pem": certificates.authority.read_text()},
        "redis-worker": {"password": "change-me-worker"},
        "redis-api": {"password": "change-me-api"},
        "client": {
            "tls.crt": certificates.client.read_text(),
            "tls.key": certificates.client_key.read_text(),
        },
    }
    chosen = values(
        {"brokers": kafka.sasl_ssl, "securityProtocol": "SASL_SSL", "ca": {"secret": "kafka"},
         "user": {"name": USER, "secret": "kafka", "certificateSecret": "client"}},
        {"url": f"rediss://{NAME}:{port}/0", "ca": {"configMap": "redis-ca", "key": "ca.pem"}},
        worker={"redisUser": {"name": "worker", "secret": "redis-worker",
                              "certificateSecret": "client"}},
        api={"redisUser": {"name": "api", "secret": "redis-api"}},
    )  # fmt: skip
    installation = Installation(chosen, before, tmp_path)
    with (
        running(kafka.server),
        running(secure_servers.redis_server(tmp_path, port, certificates, users)),
    ):
        eventually(lambda: all(map(is_listening, [*kafka.ports, port])), "Kafka and Redis")
        topics = installation.run("topics")
        assert topics.returncode == 0, topics.stderr
        started(installation, "worker")
        api = started(installation, "api")
        eventually(lambda: status(f"{api}/health/fresh") == 200, "every partition fresh")
