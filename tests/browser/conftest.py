"""Fixtures: the product on embedded servers, and a headless Chromium."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from projector.ports import free_port, is_listening
from tests.absence import skip_test
from tests.browser.browser import BINARIES, Browser, start_chromium
from tests.integration import servers
from tests.integration.deployment import Deployment

SCREENSHOTS = Path(__file__).parent / "screenshots"
prefixes = itertools.count(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if any(SCREENSHOTS.glob("*.webp")):
        terminalreporter.write_line(f"screenshots: {SCREENSHOTS}")


@pytest.fixture(scope="session", autouse=True)
def _chromium() -> None:
    missing = [name for name in BINARIES if shutil.which(name) is None]
    if not missing:
        return
    reason = f"NO BROWSER TEST RUNS: {' and '.join(missing)} not installed"
    skip_test(reason)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    SCREENSHOTS.mkdir(exist_ok=True)
    for old in SCREENSHOTS.glob("*.webp"):
        old.unlink()
    return SCREENSHOTS


@pytest.fixture(scope="module")
def deployment(_chromium: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Start the embedded broker and Valkey, which the module's tests share."""
    folder = tmp_path_factory.mktemp("deployment")
    kafka, redis = free_port(), free_port()
    with (
        servers.running(servers.embedded_kafka(folder, kafka)),
        servers.running(servers.valkey(folder, redis)),
    ):
        servers.eventually(lambda: is_listening(kafka) and is_listening(redis), "servers listening")
        prefix = f"browser-{next(prefixes)}."
        with Deployment(f"127.0.0.1:{kafka}", redis, prefix, folder) as deployment:
            yield deployment


@pytest.fixture(scope="session")
def chromium(_chromium: None) -> Iterator[Chrome]:
    driver = start_chromium()
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Chrome, screenshots: Path) -> Iterator[Browser]:
    """Open a tab; at the end, check its requests and its console."""
    browser = Browser(chromium, screenshots)
    try:
        yield browser
        browser.check()
    finally:
        browser.close()
