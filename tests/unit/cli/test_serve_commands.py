"""`projector worker`, `api`, `ops` and `dev`: what must be right before they serve."""

import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from projector.cli import serve_commands
from projector.cli.terminal import WRONG
from tests.job_tokens import signing_key
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


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two files of keys, as the settings name them; and no server."""
    paths = [tmp_path / "one.pem", tmp_path / "two.pem"]
    for number, path in enumerate(paths):
        path.write_bytes(signing_key(number).pem)
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_KEYS", ",".join(map(str, paths)))
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_ISSUER", "gitlab.example.com")
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    return paths


def test_the_api_logs_each_key_of_job_tokens_once(
    keys: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_commands, "_serve", lambda *_, **__: None)
    with capture_logs() as logged:
        assert run("api", "--port", "0", "--workers", "2").exit_code == 0
    named = [line for line in logged if line["event"] == "key of job tokens"]
    assert [(line["kid"], line["file"]) for line in named] == [
        (signing_key(number).kid, str(path)) for number, path in enumerate(keys)
    ]


def test_without_keys_of_job_tokens_none_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    monkeypatch.setattr(serve_commands, "_serve", lambda *_, **__: None)
    with capture_logs() as logged:
        assert run("api", "--port", "0").exit_code == 0
    assert [line["event"] for line in logged] == ["api starting"]


@pytest.mark.parametrize("damage", ["missing", "text"])
def test_a_key_of_job_tokens_that_cannot_be_used_stops_the_api_in_one_sentence(
    keys: list[Path], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(serve_commands, "_serve", lambda *_, **__: pytest.fail("it serves"))
    if damage == "missing":
        keys[1].unlink()
    else:
        keys[1].write_text("s3cr3t")
    result = run("api", "--port", "0")
    assert result.exit_code == WRONG
    assert result.stderr.startswith(f"wrong setting: PROJECTOR_JOB_TOKEN_KEYS: {keys[1]}: ")
    assert len(result.stderr.splitlines()) == 1
    assert "s3cr3t" not in result.stderr


def test_keys_of_job_tokens_without_an_issuer_stop_the_api(
    keys: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROJECTOR_JOB_TOKEN_ISSUER")
    result = run("api", "--port", "0")
    assert result.exit_code == WRONG
    assert "PROJECTOR_JOB_TOKEN_ISSUER: must be set" in result.stderr
