"""`projector worker`, `api`, `ops` and `dev`: what must be right before they serve."""

import socket

import pytest

from projector.cli.terminal import WRONG
from tests.unit.cli.runner import run


def test_a_port_in_use_stops_the_api_in_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("api", "--port", str(port))
    assert result.exit_code == WRONG
    assert result.stderr == (
        f"port {port} is in use; choose another with --port, or 0 for a free one\n"
    )


def test_a_web_port_in_use_stops_the_worker_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("PROJECTOR_WORKER_WEB_PORT", str(other.getsockname()[1]))
        result = run("worker")
    assert result.exit_code == WRONG
    assert "PROJECTOR_WORKER_WEB_PORT" in result.stderr
