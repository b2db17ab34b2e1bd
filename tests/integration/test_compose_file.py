"""docker-compose.yml as Docker Compose's own library loads it."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.absence import skip_test
from tests.integration.servers import REPOSITORY

LOADER = Path(__file__).parent / "compose"
FETCHES_NEWER_GO = (1, 21)
FILE = REPOSITORY / "docker-compose.yml"


def load(file: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("go") is None:
        skip_test("Go is not installed, in which Docker Compose is written")
    asked = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True)
    version = asked.stdout.strip().removeprefix("go").split(".")
    if tuple(map(int, version[:2])) < FETCHES_NEWER_GO:
        skip_test(f"Docker Compose's library needs Go 1.24, and this is {'.'.join(version)}")
    return subprocess.run(
        ["go", "run", ".", str(file)],
        cwd=LOADER, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return services


def test_one_service_of_a_start_builds_the_image(services: dict[str, Any]) -> None:
    """Find builds beside another: Compose labels each, so they are images that fight for a name."""
    builds = [service for service in services.values() if "build" in service]
    assert [service.get("profiles", []) for service in builds] == [[], ["tools"]]


def test_no_service_starts_before_its_image_is_built(services: dict[str, Any]) -> None:
    """Start each service alone: nothing pulls the image, so one that it waits for must build it."""
    image = services["topics"]["image"]
    waiting = [s for s in services.values() if s["image"] == image and "build" not in s]
    assert len(waiting) == 5
    for service in waiting:
        built = service["depends_on"]["topics"]
        assert built == {"condition": "service_completed_successfully"}


def test_the_check_of_kafka_asks_whether_the_broker_listens(services: dict[str, Any]) -> None:
    kind, *check = services["kafka"]["healthcheck"]["test"]
    assert kind == "CMD"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        ask = [part.replace("/9092", f"/{server.getsockname()[1]}") for part in check]
        assert subprocess.run(ask, capture_output=True, check=False).returncode == 1
        server.listen()
        assert subprocess.run(ask, check=False).returncode == 0


def test_a_server_that_never_listens_is_not_healthy(services: dict[str, Any]) -> None:
    """Compare each port of the product's checks with the port that the service has."""
    asked = {
        name: service["healthcheck"]["test"][-1]
        for name, service in services.items()
        if "/opt/projector/health.py" in service.get("healthcheck", {}).get("test", [])
    }
    assert asked == {"worker": "8001", "ops": "8001", "ingest": "8002", "bridge": "8003"}
    for name, port in asked.items():
        service = services[name]
        settings = [str(value) for value in service["environment"].values()]
        assert port in service["command"] + settings


def test_docker_compose_loads_the_file_with_all_its_profiles() -> None:
    loaded = load(FILE)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == sorted(yaml.safe_load(FILE.read_text())["services"])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("mem_limit: 512m", "memory_limit: 512m", "memory_limit"),
        ("      kafka:\n", "      kafkaa:\n", "kafkaa"),
    ],
)
def test_docker_compose_would_refuse_what_it_does_not_know(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    file = tmp_path / FILE.name
    file.write_text(FILE.read_text().replace(old, new, 1))
    refused = load(file)
    assert refused.returncode == 1
    assert reason in refused.stderr
