"""A package `api` of someone else: in the working directory, and in PYTHONPATH."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.ports import free_port
from tests.integration.servers import eventually

BIN = Path(sys.executable).parent
UVICORN = [
    "uvicorn", "--factory", "projector.asgi:create_api",
    "--http", "projector.asgi:LookupProtocol", "--ws", "none",
]  # fmt: skip
COMMANDS = {
    "script": [str(BIN / "projector"), "api"],
    "module": [sys.executable, "-m", "projector", "api"],
    "two processes": [sys.executable, "-m", "projector", "api", "--workers", "2"],
    "operators' page": [sys.executable, "-m", "projector", "ops"],
    "uvicorn": [str(BIN / UVICORN[0]), *UVICORN[1:]],
    "uvicorn, two processes": [sys.executable, "-m", *UVICORN, "--workers", "2"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").write_text("raise SystemExit('another api')\n")
    return tmp_path


@pytest.fixture(params=COMMANDS)
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    port, log = free_port(), folder / "log"
    env = os.environ | {"PYTHONPATH": str(folder), "PROJECTOR_REDIS_URL": "redis://127.0.0.1:1/0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMANDS[request.param], "--port", str(port)],
            cwd=folder, env=env, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}/health/live", log
    finally:
        process.terminate()
        process.wait(20)


def is_live(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_every_server_serves_its_own_api(server: tuple[str, Path]) -> None:
    url, log = server
    eventually(lambda: is_live(url) or "another api" in log.read_text(), "the API, or the other")
    assert "another api" not in log.read_text()
