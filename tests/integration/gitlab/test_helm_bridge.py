"""The bridge of the chart in deploy/helm, on PostgreSQL with TLS and a password."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
from psycopg.conninfo import conninfo_to_dict

from projector.ports import is_listening
from tests.integration.containers import Installation
from tests.integration.gitlab.gitlab_database import GitlabDatabase
from tests.integration.gitlab.test_replication_tls import with_tls
from tests.integration.helm.chart import helm_or_skip
from tests.integration.ports import free_port
from tests.integration.servers import eventually, running, valkey


def test_the_bridge_of_the_chart_runs(
    own_gitlab: GitlabDatabase, address_of: Callable[[str], str], tmp_path: Path
) -> None:
    helm_or_skip()
    authority = Path(with_tls(own_gitlab.server)).read_text()
    parts = conninfo_to_dict(own_gitlab.bridge_dsn)
    password = str(parts.pop("password"))
    parts["sslmode"] = "verify-full"  # fails without the file of the CA
    port = free_port()
    chosen = {
        "image": {"repository": "registry.example.com/allowed-agents-projector"},
        "kafka": {"brokers": address_of("embedded")},
        "redis": {"url": f"redis://127.0.0.1:{port}/0"},
        "settings": {
            "PROJECTOR_TOPIC_PREFIX": f"helm{free_port()}.", "PROJECTOR_PARTITIONS": 4,
            "PROJECTOR_SOURCES": "gitlab",
        },
        "bridge": {
            "enabled": True,
            "database": " ".join(f"{name}={value}" for name, value in parts.items()),
            "passwordSecret": "gitlab",
            "databaseCa": {"pem": authority},
            "settings": {"PROJECTOR_GITLAB_HEARTBEAT": 0.5},
        },
    }  # fmt: skip
    installation = Installation(chosen, {"gitlab": {"password": password}}, tmp_path)
    with running(valkey(tmp_path, port)):
        eventually(lambda: is_listening(port), "Valkey listening")
        topics = installation.run("topics")
        assert topics.returncode == 0, topics.stderr
        server, address = installation.start("bridge")
        with running(server):

            def runs() -> bool:
                assert server.process.poll() is None, server.log()
                try:
                    answer = httpx.get(f"{address}/health/live")
                except httpx.TransportError:
                    return False
                return answer.status_code == 200 and answer.json()["step"] == "running"

            eventually(runs, "the bridge running")
            assert installation.paths("bridge") == {"/health/live"}
            assert "projector_gitlab_lag_seconds" in httpx.get(f"{address}/metrics").text
        logged = [json.loads(line) for line in server.log().splitlines()]
        assert not [line for line in logged if line["level"] in {"warning", "error"}]
    assert (tmp_path / "bridge" / "gitlab.db").exists()
