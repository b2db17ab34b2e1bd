"""docker-compose.yml as Docker Compose's own library loads it."""

import os
import shutil
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
