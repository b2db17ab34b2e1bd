"""Servers that are missing at the start: processes name them, wait, and go on by themselves."""

from pathlib import Path

import pytest

from projector.process import is_listening
from tests import builders
from tests.integration import servers
from tests.integration.conftest import BROKERS, apache_or_skip
from tests.integration.deployment import Deployment
from tests.integration.ports import free_port
from tests.integration.servers import eventually, running


def missed(server: str) -> str:
    return f'"server": "{server}"'


@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("broker", list(BROKERS))
def test_worker_and_api_wait_for_redis_and_kafka(tmp_path: Path, broker: str) -> None:
    apache_or_skip(broker)
    kafka_port, redis_port = free_port(), free_port()
    with Deployment(f"127.0.0.1:{kafka_port}", redis_port, "late.", tmp_path) as deployment:
        worker = deployment.start("worker")
        api = deployment.start_api()
        place = f"127.0.0.1:{redis_port}"
        eventually(lambda: missed("Redis") in worker.log(), "the worker misses Redis")
        eventually(lambda: missed("Redis") in api.log(), "the API misses Redis")
        assert place in worker.log()
        assert place in api.log()
        eventually(lambda: deployment.look_up("token-9").status == 503, "503 without Redis")
        assert deployment.look_up("token-9").body["reason"] == "Redis is not reachable"

        with running(servers.valkey(tmp_path, redis_port)) as redis:
            eventually(lambda: missed("Kafka") in worker.log(), "the worker misses Kafka")
            assert f"127.0.0.1:{kafka_port}" in worker.log()
            with running(BROKERS[broker](tmp_path, kafka_port)):
                eventually(lambda: is_listening(kafka_port), "the broker listening")
                eventually(lambda: "projector topics" in worker.log(), "the worker misses topics")
                assert deployment.command("topics").returncode == 0
                deployment.until_fresh()
                deployment.feed(builders.group(3), builders.project(7, 3), builders.started(9, 7))
                deployment.until("token-9", 200)

                redis.kill()
                eventually(lambda: deployment.look_up("token-9").status == 503, "503 again")
                redis.start()
                eventually(lambda: is_listening(redis_port), "Valkey listening, empty")
                deployment.until("token-9", 200, "the views back in an empty Redis")
