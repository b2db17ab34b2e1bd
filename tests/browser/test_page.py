"""The operators' page of the running product in Chromium."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Keys

from projector.events.partitioning import partition_of
from projector.ports import free_port, is_listening
from tests import builders
from tests.browser.browser import PHONE, SMALL_PHONE, Browser
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import Server, eventually

OPS_TOKEN = "operators-token-of-the-tests"
WRONG_TOKEN = "no-token-of-these-operators"
REFUSED = "401 (Unauthorized)"
MARKUP = "<img src=x onerror=alert(1)>"
# Reverses the text direction, sends an escape sequence, rings the bell, has zero width.
TRICKS = "a\u202eb\x1b[31mc\u0007d\u200be"
SHOWN_TRICKS = "a\\u{202e}b\\u{1b}[31mc\\u{7}d\\u{200b}e"
HOSTILE = MARKUP + TRICKS
WELL = f"Lookups are answered: {PARTITIONS} partitions fresh, 1 worker"
SHOWN = MARKUP + SHOWN_TRICKS
EVENTS: list[dict[str, Any]] = [
    builders.group(3),
    builders.group(12, 3),
    builders.project(123213, 12),
    builders.project(500, 12, path="p500"),
    builders.member(1, "reporter", group_id=3),
    builders.agent(5, 123213),
    builders.agent(6, 500),
    builders.configured(6, groups=[{"id": 12, "environments": ["production"]}]),
    builders.member(4, "developer", group_id=3),
    builders.started(9, 123213, 4, environment={"name": "review/7", "slug": "r", "tier": "other"}),
    # The same entities with hostile names.
    builders.group(40, root="40", path=HOSTILE),
    builders.project(41, 40, root="40", path=HOSTILE),
    builders.event("user.set", {"id": 42, "username": HOSTILE, "state": "active"}),
    builders.event("agent.set", {"id": 43, "name": HOSTILE, "project_id": 41}, root="40"),
    builders.member(42, "developer", group_id=40, root="40", via=HOSTILE),
    builders.started(
        44, 41, 42, root="40", environment={"name": HOSTILE, "slug": HOSTILE, "tier": HOSTILE}
    ),
]


class Product:
    """The running processes: a worker, and the API with the page."""

    def __init__(self, deployment: Deployment, worker: Server) -> None:
        self.deployment = deployment
        self.worker = worker

    @property
    def page(self) -> str:
        return f"{self.deployment.api}/ops/"


@pytest.fixture(scope="module")
def product(deployment: Deployment) -> Product:
    deployment.env["PROJECTOR_OPS_TOKEN"] = OPS_TOKEN
    worker = deployment.start_all()
    deployment.feed(*EVENTS, builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    deployment.produce(builders.event("nonsense", {"id": 1}), topic="membership", partition=0)
    # Any client with the right to write dead letters may write any reason.
    letter = [(f"dead-letter-{name}", HOSTILE.encode()) for name in ("reason", "topic", "time")]
    deployment.produce(b"{}", topic="dead-letters", partition=0, headers=letter)
    deployment.until("token-44", 200)
    deployment.until("token-9", 200)
    return Product(deployment, worker)


@pytest.fixture
def page(product: Product, browser: Browser) -> Browser:
    """Open the page and enter the token."""
    browser.open(product.page)
    give(browser, OPS_TOKEN)
    browser.until_text("#summary", WELL)
    return browser


def give(browser: Browser, token: str) -> None:
    browser.until(browser.find("#token").is_displayed, "the form for the token")
    browser.find("#token").send_keys(token, Keys.ENTER)


def search(browser: Browser, job: str, agent: str = "") -> None:
    for name, value in (("#job", job), ("#agent", agent)):
        browser.find(name).clear()
        browser.find(name).send_keys(value)
    browser.find("#question button").click()


def overflow(browser: Browser) -> int:
    script = "return document.documentElement.scrollWidth - window.innerWidth"
    return int(browser.driver.execute_script(script))


def test_fresh_partitions_are_folded_and_all_are_shown_on_request(page: Browser) -> None:
    page.until_text("#workers tbody", f"{PARTITIONS} fresh: 0-{PARTITIONS - 1}")
    assert page.texts("#partitions tbody tr") == []
    page.find("#show-all").click()
    page.until(lambda: page.text("#partitions tbody").count("● fresh") == PARTITIONS, "all fresh")
    page.find("#show-all").click()
    page.until(lambda: page.texts("#partitions tbody tr") == [], "folded again")


def test_totals_deployment_and_times_are_shown(product: Product, page: Browser) -> None:
    page.until_text("#totals", f"Fresh{PARTITIONS} of {PARTITIONS}")
    page.until_text("#totals", "Live tokens2")
    assert product.deployment.kafka in page.text("#deployment")
    assert product.deployment.prefix in page.text("#deployment")
    assert page.text("#deployment-redis") == product.deployment.redis_url
    assert page.text("#updated").startswith("updated ")
    assert page.text("#clock").endswith(" UTC")
    # No worker waits for a source.
    assert not page.find("#sources-section").is_displayed()
    # The owners' activity: the removal of a member is a revocation.
    page.until_text("#revocations-value", "1 revocation; half within", 30)


def test_dead_letters_are_grouped_with_type_source_and_reason(page: Browser) -> None:
    page.until_text("#letters", "nonsense from /test")
    group = next(text for text in page.texts("#letters details") if "nonsense from" in text)
    assert group.startswith("1 \u00d7")
    page.until_text("#letters tbody", "membership 0:")
    assert "`" not in page.text("#letters")


def test_figures_change_without_a_new_row(product: Product, page: Browser) -> None:
    """No flicker: rows stay, and only their texts change."""
    page.find("#show-all").click()
    page.until(lambda: len(page.texts("#partitions tbody tr")) == PARTITIONS, "all partitions")
    rows = "[...document.querySelectorAll('#partitions tbody tr')]"
    page.driver.execute_script(f"{rows}.forEach(row => row.marked = true)")
    number = partition_of(builders.ROOT, PARTITIONS)
    # Its age may read the same for long: workers, API and page all keep their own steady pace.
    revision = f"#partitions tr[data-partition='{number}'] [data-label=revision]"
    before = page.text(revision)
    product.deployment.feed(builders.group(70, 3))
    page.until(lambda: page.text(revision) not in ("", before), "another revision")
    marked = page.driver.execute_script(f"return {rows}.map(row => row.marked)")
    assert marked == [True] * PARTITIONS


def test_without_the_token_there_is_no_data(product: Product, browser: Browser) -> None:
    browser.expected_errors = (REFUSED,)
    browser.open(product.page)
    browser.until(browser.find("#token").is_displayed, "the form for the token")
    assert not browser.find("#board").is_displayed()
    give(browser, WRONG_TOKEN)
    browser.until_text("#credential-wrong", "this is not the operators' token")
    assert not browser.find("#board").is_displayed()
    assert browser.texts("#workers tbody tr") == []
    assert not browser.find("#deployment").is_displayed()
    browser.screenshot("refused")


def test_a_token_is_in_no_address_and_is_not_kept(product: Product, page: Browser) -> None:
    assert page.driver.current_url == product.page
    script = "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert page.driver.execute_script(script) == '[{},{},""]'
    page.check()
    assert len(page.requests) > 5
    assert not any(OPS_TOKEN in url for url in page.requests)
    page.find("#leave").click()
    page.until(page.find("#token").is_displayed, "the form again")
    assert not page.find("#board").is_displayed()


def test_a_search_says_why_a_job_may_not_use_an_agent(page: Browser) -> None:
    search(page, "9", "6")
    page.until_text("#answer .sentence", "Job 9 may not use agent 6")
    answer = page.text("#answer")
    assert "rule environments" in answer
    assert "a6" in answer
    assert "agent-config" in answer
    assert "developer in group 3" in answer
    assert page.find("#answer .event").is_displayed()
    page.screenshot("page-explanation")


def test_on_a_phone_the_events_behind_an_answer_are_shown_on_request(
    product: Product, browser: Browser
) -> None:
    browser.resize(*PHONE, mobile=True)
    browser.open(product.page)
    give(browser, OPS_TOKEN)
    browser.until_text("#summary", WELL)
    search(browser, "9", "6")
    browser.until_text("#answer .sentence", "Job 9 may not use agent 6")
    assert not browser.find("#answer .event").is_displayed()
    # Names and values side by side.
    script = "return getComputedStyle(document.querySelector('#answer dl')).gridTemplateColumns"
    assert len(browser.driver.execute_script(script).split()) == 2
    browser.screenshot("page-explanation-phone")
    browser.find("#events-behind").click()
    assert browser.find("#answer .event").is_displayed()


def test_a_search_without_an_agent_lists_every_agent(page: Browser) -> None:
    search(page, "9")
    page.until_text("#answer .sentence", "Job 9")
    rows = page.texts("#answer table tbody tr")
    assert len(rows) == 2
    assert any("5 a5" in row and "✓ allowed" in row for row in rows)
    assert any("6 a6" in row and "✗ refused" in row for row in rows)


def test_an_unknown_job_is_said_to_be_unknown(page: Browser) -> None:
    page.expected_errors = ("404 (Not Found)",)
    search(page, "777")
    page.until_text("#answer", "job 777 is not known")


def test_what_is_no_id_is_not_even_sent(page: Browser) -> None:
    search(page, "glcbt-64_a-job-token-by-mistake")
    page.check()
    assert not any("jobs" in url for url in page.requests)
    assert page.text("#answer") == ""


def test_hostile_names_stay_text(page: Browser) -> None:
    search(page, "44", "43")
    page.until_text("#answer .sentence", "Job 44 may use agent 43")
    answer = page.text("#answer")
    for what in ("41", "40", "42"):  # project, group, user
        assert f"{what} {SHOWN}" in answer
    assert f"environment {SHOWN} ({SHOWN})" in answer
    page.until_text("#letters tbody", SHOWN)
    assert page.driver.execute_script("return document.images.length") == 0
    assert not any(trick in page.find("body").text for trick in "\u202e\x1b\u0007\u200b")
    page.screenshot("hostile")


def test_the_keyboard_is_enough(product: Product, browser: Browser) -> None:
    browser.open(product.page)
    browser.until(browser.find("#token").is_displayed, "the form for the token")
    browser.tab_to("token")
    browser.type(OPS_TOKEN, Keys.ENTER)
    browser.until_text("#summary", "fresh")
    # From the beginning of the page, without a focused element.
    browser.driver.execute_script("document.activeElement.blur()")
    browser.tab_to("job")
    script = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.driver.execute_script(script) == "solid"
    browser.type("9")
    browser.tab_to("agent")
    browser.type("5", Keys.ENTER)
    browser.until_text("#answer .sentence", "Job 9 may use agent 5")


def test_on_a_phone_nothing_is_beside_the_screen(page: Browser) -> None:
    page.resize(*SMALL_PHONE, mobile=True)
    search(page, "44", "43")
    page.until_text("#answer .sentence", "Job 44")
    page.find("#events-behind").click()
    page.find("#letters summary").click()
    assert page.driver.execute_script("return innerWidth") == SMALL_PHONE[0]
    assert overflow(page) == 0
    page.screenshot("hostile-phone")


def test_on_this_machine_the_own_address_asks_for_no_token(
    product: Product, browser: Browser
) -> None:
    port = free_port()
    env = product.deployment.env
    token = env.pop("PROJECTOR_OPS_TOKEN")
    try:
        server = product.deployment.start("ops", "--port", str(port))
    finally:
        env["PROJECTOR_OPS_TOKEN"] = token
    eventually(lambda: is_listening(port), "projector ops")
    browser.open(f"http://localhost:{port}/ops/")
    browser.until_text("#summary", WELL)
    assert not browser.find("#token").is_displayed()
    assert server.stop() == -signal.SIGTERM


@pytest.fixture
def stopped(product: Product) -> Iterator[None]:
    """Stop the worker by SIGSTOP, as on a frozen machine."""
    product.worker.signal(signal.SIGSTOP)
    yield
    product.worker.signal(signal.SIGCONT)
    product.deployment.until_fresh()


def test_a_stopped_worker_shows_within_ten_seconds(page: Browser, stopped: None) -> None:
    page.until_text("#workers", f"{PARTITIONS} late", timeout=10)
    page.until_text("#summary", "The only worker", timeout=5)
    assert page.attribute("#summary", "data-state") == "late"
    assert "Lookups are answered until" in page.text("#alarm")
    page.until_text("#workers", f"{PARTITIONS} stale")
    page.until_text("#alarm-lookups", "Lookups get 503.")
    assert page.attribute("#summary", "data-state") == "stale"
    assert "The only worker" in page.driver.title


def test_a_page_without_its_server_shows_how_old_it_is(product: Product, browser: Browser) -> None:
    browser.expected_errors = ("net::ERR_",)
    other = product.deployment.start("api", "--port", str(port := free_port()))
    eventually(lambda: is_listening(port), "another API")
    browser.open(f"http://127.0.0.1:{port}/ops/")
    give(browser, OPS_TOKEN)
    browser.until_text("#summary", WELL)
    browser.until(lambda: browser.texts("#letters details") != [], "the dead letters")
    other.kill()
    browser.until_text("#summary", "This page cannot reach its server.")
    browser.until_text("#silence-since", "All below is of then.")
    browser.until(lambda: browser.attribute("#updated", "data-state") == "stale", "it looks old")
    browser.come_back()
    browser.until_text("#letters-note", "The letters below are of 20")
    assert not browser.find("#alarm").is_displayed()
    browser.screenshot("page-server-away")
