"""`projector worker`, `api`, `ops` and `dev`: what must be right before they serve."""

import socket

import pytest

from projector.cli import serve_commands
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


@pytest.mark.parametrize("command", ["api", "ops", "dev"])
@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
def test_a_port_that_no_machine_has_is_refused_by_every_server(
    monkeypatch: pytest.MonkeyPatch, command: str, port: str
) -> None:
    """`--port 99999` used to listen on 34463."""
    monkeypatch.setattr(serve_commands, "_serve", lambda *_, **__: pytest.fail("it serves"))
    result = run(command, "--port", port)
    assert result.exit_code == WRONG
    assert "Invalid value for '--port'" in result.stderr
    assert "equal to 65535" in result.stderr or "equal to 0" in result.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
def test_a_web_port_that_no_machine_has_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    monkeypatch.setenv("PROJECTOR_WORKER_WEB_PORT", port)
    result = run("worker")
    assert result.exit_code == WRONG
    assert "PROJECTOR_WORKER_WEB_PORT" in result.stderr


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
