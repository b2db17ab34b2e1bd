"""Servers that are missing at the start: processes name them, wait, and go on by themselves."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from projector.events.partitioning import partition_of
from projector.ports import is_listening
from tests import builders
from tests.integration import servers
from tests.integration.conftest import BROKERS, apache_or_skip
from tests.integration.deployment import PARTITIONS, Deployment
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


@pytest.mark.usefixtures("real_processes")
def test_an_outage_is_a_few_lines_of_a_worker_that_has_nothing_to_do(tmp_path: Path) -> None:
    """aiokafka wrote 150 to 190 lines a second; while Redis was away there was not one."""
    apache_or_skip("apache")
    kafka_port, redis_port = free_port(), free_port()
    with (
        running(servers.valkey(tmp_path, redis_port)) as redis,
        running(servers.apache_kafka(tmp_path, kafka_port)) as broker,
        Deployment(f"127.0.0.1:{kafka_port}", redis_port, "few.", tmp_path) as deployment,
    ):
        eventually(lambda: is_listening(kafka_port) and is_listening(redis_port), "listening")
        page = free_port()
        deployment.env["PROJECTOR_WORKER_WEB_PORT"] = str(page)
        worker = deployment.start_all()
        before = len(worker.log())

        def heartbeat() -> float:
            live = httpx.get(f"http://127.0.0.1:{page}/health/live", timeout=10)
            assert live.status_code == 200, live.text
            return float(live.json()["last_heartbeat_s"] or 0)

        eventually(lambda: 0 < heartbeat() < 5, "a heartbeat")

        def logged(event: str) -> list[dict[str, Any]]:
            lines = worker.log()[before:].split("\n")[:-1]
            return [line for line in map(json.loads, lines) if line["event"] == event]

        broker.kill()
        eventually(lambda: logged("outage goes on") != [], "an outage that goes on", 40)
        eventually(lambda: logged("other libraries repeat themselves") != [], "their sum", 40)
        assert len(worker.log()[before:].split("\n")) < 60
        assert heartbeat() > 5, "and the worker is live without Kafka"
        assert [line["server"] for line in logged("outage")] == ["Kafka"]
        assert logged("outage goes on")[0]["partitions"] == PARTITIONS
        assert logged("other libraries repeat themselves")[0]["lines"] > 100
        broker.start()
        eventually(lambda: logged("outage over") != [], "the end of the outage", 60)
        deployment.until_fresh()
        redis.kill()
        eventually(lambda: logged("outage")[-1]["server"] == "Redis", "Redis is away")
        redis.start()
        eventually(lambda: logged("outage over")[-1]["server"] == "Redis", "Redis is back")


@pytest.mark.usefixtures("real_processes")
def test_with_the_defaults_a_crash_refuses_no_valid_token(tmp_path: Path) -> None:
    """The session timeout was as long as the staleness bound: four of six crashes gave 503."""
    apache_or_skip("apache")
    kafka_port, redis_port = free_port(), free_port()
    with (
        running(servers.valkey(tmp_path, redis_port)),
        running(servers.apache_kafka(tmp_path, kafka_port)),
        Deployment(f"127.0.0.1:{kafka_port}", redis_port, "crash.", tmp_path) as deployment,
    ):
        eventually(lambda: is_listening(kafka_port) and is_listening(redis_port), "listening")
        del deployment.env["PROJECTOR_SESSION_TIMEOUT"]
        worker = deployment.start_all()
        root = {partition_of(str(number), PARTITIONS): number for number in range(1, 100)}
        for number in root.values():
            deployment.feed(
                builders.group(number, root=str(number)),
                builders.project(1000 + number, number, root=str(number)),
                builders.started(number, 1000 + number, root=str(number)),
            )
        tokens = [f"token-{number}" for number in root.values()]
        for token in tokens:
            deployment.until(token, 200)
        other = deployment.start("worker")
        eventually(lambda: other.log().count('"claimed"') == PARTITIONS / 2, "half of them")
        worker.kill()
        refused = []
        while other.log().count('"claimed"') < PARTITIONS:
            refused += [t for t in tokens if deployment.look_up(t).status != 200]
        deployment.until_fresh()
        assert refused == []
