"""Headless Chromium: one page, its requests and the errors of its console."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.integration.servers import eventually

BINARIES = ("chromium", "chromedriver")
DESKTOP = (1440, 900)
PHONE = (390, 844)
# A small one.
SMALL_PHONE = (360, 740)
# Pictures of at most 100 KB.
QUALITY, MOST_HEIGHT = 45, 1100


class Browser:
    """A new tab of Chromium, which the tests share: it takes seconds to start."""

    def __init__(self, driver: Chrome, screenshots: Path) -> None:
        self._screenshots = screenshots
        self._hosts: set[str] = set()
        self.requests: list[str] = []
        self.console_errors: list[str] = []
        self.expected_errors: tuple[str, ...] = ()
        self.driver = driver
        self._before = driver.current_window_handle
        driver.switch_to.new_window("tab")
        self._read_logs()
        self.requests.clear()
        self.console_errors.clear()
        self.resize(*DESKTOP)

    def close(self) -> None:
        self.driver.close()
        self.driver.switch_to.window(self._before)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._command("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features: str) -> None:
        """Set media features, such as prefers_color_scheme="dark"."""
        found = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self._command("Emulation.setEmulatedMedia", {"features": found})

    def open(self, url: str) -> None:
        self._hosts.add(urlsplit(url).netloc)
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return list(self.driver.execute_script(script, selector))

    def text(self, selector: str) -> str:
        return " ".join(self.texts(selector))

    def attribute(self, selector: str, name: str) -> str:
        """Read it in one step: the page may replace the element between two."""
        script = "return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? ''"
        return str(self.driver.execute_script(script, selector, name))

    def come_back(self) -> None:
        """Let the page read everything now, as when its tab is shown again."""
        self.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")

    def until(self, holds: Callable[[], bool], what: str, timeout: float = 20) -> None:
        try:
            eventually(holds, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; text of the page: {self.find('body').text}") from None

    def until_text(self, selector: str, text: str, timeout: float = 20) -> None:
        self.until(lambda: text in self.text(selector), f"{selector} shows {text!r}", timeout)

    def type(self, *keys: str) -> None:
        """Press keys in the focused element."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab_to(self, identity: str) -> None:
        """Press Tab until the element with this id has the focus."""
        for _ in range(20):
            if self.driver.switch_to.active_element.get_attribute("id") == identity:
                return
            self.type(Keys.TAB)
        raise AssertionError(f"Tab does not reach {identity}")

    def screenshot(self, name: str, of: str = "body") -> None:
        """Write the element's upper part; the names that documents show begin with `page-`."""
        script = """
            scrollTo(0, 0);
            const box = document.querySelector(arguments[0]).getBoundingClientRect();
            return [box.x, box.y, box.width, Math.min(box.height, arguments[1])];
        """
        x, y, width, height = self.driver.execute_script(script, of, MOST_HEIGHT)
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        how = {"captureBeyondViewport": True, "format": "webp", "quality": QUALITY, "clip": clip}
        shot = self._command("Page.captureScreenshot", how)
        (self._screenshots / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))

    def check(self) -> None:
        """Fail if the page sent a request to another host, or on an unexpected console error."""
        self._read_logs()
        hosts = {urlsplit(url).netloc for url in self.requests if url.startswith("http")}
        assert hosts <= self._hosts, hosts
        unexpected = [
            c for c in self.console_errors if not any(e in c for e in self.expected_errors)
        ]
        assert not unexpected, unexpected

    def _read_logs(self) -> None:
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        self.console_errors += [
            entry["message"]
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        ]

    def _command(self, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        return dict(self.driver.execute_cdp_cmd(name, parameters) or {})


def start_chromium() -> Chrome:
    """Start a headless Chromium that logs its requests and its console."""
    options = ChromeOptions()
    options.binary_location = which("chromium") or ""
    for argument in (
        "--headless=new", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-sandbox",  # containers run as root, and Chromium refuses to sandbox root
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # With the path of a driver, Selenium neither searches for one nor downloads it.
    return Chrome(options=options, service=ChromeService(which("chromedriver") or ""))
