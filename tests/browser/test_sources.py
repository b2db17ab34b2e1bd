"""Sources on the operators' page: silent, heard, and silent again."""

import pytest

from projector.config.settings import Settings
from projector.ports import free_port, is_listening
from tests.browser.browser import SMALL_PHONE, Browser
from tests.heartbeat_sender import HeartbeatSender, sending
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually

LONG_NAME = "a-source-with-a-very-long-name-of-sixty-three-characters-in-all"
ROWS = "#sources tbody tr"


@pytest.fixture(scope="module")
def page_url(deployment: Deployment) -> str:
    """A worker that waits for two sources, and `projector ops`.

    The bound of eight seconds leaves six in which a source is late, and not yet silent.
    """
    deployment.env |= {
        "PROJECTOR_SOURCES": f"gitlab,{LONG_NAME}",
        "PROJECTOR_MAX_STALENESS": "8",
    }
    assert deployment.command("topics").returncode == 0
    deployment.start("worker")
    deployment.start("ops", "--port", str(port := free_port()))
    eventually(lambda: is_listening(port), "projector ops")
    return f"http://localhost:{port}/ops/"


def sender(deployment: Deployment, source: str) -> HeartbeatSender:
    settings = Settings(kafka=deployment.kafka, topic_prefix=deployment.prefix)
    return HeartbeatSender(settings, PARTITIONS, source)


def test_a_silent_source_is_named_with_what_lookups_get(
    deployment: Deployment, page_url: str, browser: Browser
) -> None:
    browser.open(page_url)
    browser.until(lambda: browser.text(ROWS).count("■ silent") == 2, "both silent", 30)
    browser.until_text("#summary", "has been silent")
    assert browser.text(ROWS).count("never") == 2
    browser.until_text("#alarm-lookups", "Lookups get 503.")
    assert "Start the feeder" in browser.text("#alarm-advice")
    assert "silent" in browser.driver.title
    browser.screenshot("sources-silent")
    with (
        sending(sender(deployment, "gitlab")),
        sending(sender(deployment, LONG_NAME)),
    ):
        browser.until_text("#summary", f"All is well: {PARTITIONS} partitions fresh", 30)
        browser.until(lambda: browser.text(ROWS).count("● heard") == 2, "both heard")
        browser.until(lambda: browser.text(ROWS).count("none") == 2, "no partition waits")
        assert not browser.find("#alarm").is_displayed()
    with sending(sender(deployment, LONG_NAME)):
        browser.until_text(f"{ROWS}[data-state=late]", "gitlab")
        browser.until_text("#alarm", "Lookups are answered until")
        browser.until_text(f"{ROWS}[data-state=silent]", "gitlab")
        assert browser.texts(f"{ROWS}:first-child td:last-child") == ["all"]
        browser.until_text("#summary", "The source gitlab has been silent")
        browser.screenshot("page-source-silent")


def test_a_long_name_fits_a_phone(page_url: str, browser: Browser) -> None:
    browser.resize(*SMALL_PHONE, mobile=True)
    browser.open(page_url)
    browser.until_text(ROWS, LONG_NAME)
    script = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.driver.execute_script(script) == 0
    browser.screenshot("sources-phone")
