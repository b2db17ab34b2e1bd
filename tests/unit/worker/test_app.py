"""The wiring's own checks; the rest of the worker is tested on real brokers."""

import socket

import pytest
from structlog.testing import capture_logs

from projector.config.settings import Settings
from projector.errors import UnusableTopicsError, WebPortError
from projector.worker import app
from projector.worker.app import run_worker


async def test_a_web_address_of_another_machine_is_refused() -> None:
    with pytest.raises(WebPortError, match=r"of 192\.0\.2\.1 .*PROJECTOR_WORKER_WEB_HOST"):
        await run_worker(Settings(worker_web_host="192.0.2.1"))


async def test_a_web_port_in_use_is_named_before_anything_else() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WebPortError, match=rf"port {port} is.*PROJECTOR_WORKER_WEB_PORT"):
            await run_worker(Settings(worker_web_port=port))


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has nothing to do."""

    async def work(_settings: Settings) -> None:
        pass

    monkeypatch.setattr(app, "_work", work)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("session_timeout", "max_staleness", "warned"),
    [
        (6, 10, False),
        (7, 10, False),
        (7.1, 10, True),
        (10, 10, True),
        (6, 8, True),
        (10, 13, False),
    ],
)
async def test_a_session_that_outlasts_the_staleness_bound_is_warned_of_once(
    session_timeout: float, max_staleness: float, warned: bool
) -> None:
    """Or a crash gives 503 to valid tokens until the session has ended."""
    settings = Settings(session_timeout=session_timeout, max_staleness=max_staleness)
    with capture_logs() as logged:
        await run_worker(settings)
    warnings = [line for line in logged if line["log_level"] == "warning"]
    assert [line["event"] for line in warnings] == (
        ["after a crash lookups will get 503"] if warned else []
    )


@pytest.mark.usefixtures("idle")
async def test_with_the_defaults_a_crash_is_outlasted() -> None:
    with capture_logs() as logged:
        await run_worker(Settings())
    assert [line["event"] for line in logged] == ["worker stopped"]


async def test_a_worker_warns_of_each_risk_of_its_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find_risks(_settings: Settings) -> list[str]:
        return ["one", "two"]

    monkeypatch.setattr("projector.kafka.topics.find_risks", find_risks)
    with capture_logs() as logged:
        await app._report_risks(Settings())
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("topic at risk", "one"), ("topic at risk", "two"),
    ]  # fmt: skip


async def test_a_check_of_topics_that_fails_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_settings: Settings) -> list[str]:
        raise UnusableTopicsError("the broker restarts")

    monkeypatch.setattr("projector.kafka.topics.find_risks", refuse)
    with capture_logs() as logged:
        await app._report_risks(Settings())
    assert [line["reason"] for line in logged] == ["not checked: the broker restarts"]
