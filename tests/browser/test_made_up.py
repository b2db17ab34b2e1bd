"""The page over statuses that tests make up: many partitions and causes, charts, dead letters."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from selenium.webdriver import ActionChains, Keys

from api.ops.auth import AccessRefusedError, TokenAccess
from projector.events.model import Topic
from projector.operators.dead_letters.letters import LetterSummary
from projector.operators.status_model import Status
from tests.browser.browser import DESKTOP, PHONE, Browser
from tests.browser.made_up_page import MadeUpSource, serving
from tests.made_up_status import partition, source, status

LETTER = LetterSummary(
    id="0:9", time="2026-11-29T11:49:10Z", topic="membership", partition=3, offset=17, timestamp=0,
    reason="Expected `int`, got `str` - at `data.user_id`", type="member.set",
    source="/acme/gitlab-events", event_id="0198-7f3a",
)  # fmt: skip


def healthy(count: int = 16) -> Status:
    return status([partition(n, n * 2 // count) for n in range(count)])


def troubled() -> Status:
    """200 partitions of nine workers with five causes."""
    many = [partition(n, n // 23, 31.0 if n // 23 == 3 else 0.3) for n in range(200)]
    many[17] = partition(17, 0, 14.0, lag=9, leaderless=[Topic.MEMBERSHIP])
    many[40] = partition(40, 0, None)
    many[52] = partition(52, 2, 4.1, lag=31)
    waiting = [100, 101, 102]
    for n in waiting:
        many[n] = partition(n, 4, 24.0)
    sources = [source("gitlab-dedicated-eu", 24.0, waiting), source("gitlab", 0.3)]
    return status(many, dead_letters=4, sources=sources)


@pytest.fixture
def made_up() -> MadeUpSource:
    return MadeUpSource(healthy())


@pytest.fixture
def page(browser: Browser, made_up: MadeUpSource) -> Iterator[Browser]:
    with serving(made_up) as url:
        browser.open(url)
        browser.until_text("#summary", "All is well: 16 partitions fresh, 2 workers")
        browser.until_text("#letters-note", "None")
        yield browser
        # A page that asks a server which has ended writes errors to the console.
        browser.driver.get("about:blank")


def overflow(browser: Browser) -> int:
    script = "return document.documentElement.scrollWidth - innerWidth"
    return int(browser.driver.execute_script(script))


def top(browser: Browser, selector: str) -> float:
    script = "return document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY"
    return float(browser.driver.execute_script(script, selector))


def test_while_all_is_well_the_page_is_calm_and_the_search_is_first(page: Browser) -> None:
    assert not page.find("#alarm").is_displayed()
    assert page.driver.title == "Allowed agents: operators"
    assert page.texts("#workers tbody td:nth-child(4)") == ["8 fresh: 0-7", "8 fresh: 8-15"]
    assert top(page, "#question-section") < top(page, "#totals")
    page.screenshot("page-healthy")
    page.prefer(prefers_color_scheme="dark")
    page.screenshot("page-healthy-dark")
    page.resize(*PHONE, mobile=True)
    assert overflow(page) == 0
    page.screenshot("page-healthy-phone")


def test_a_status_that_cannot_be_read_is_no_server_out_of_reach_and_costs_no_token(
    browser: Browser, made_up: MadeUpSource
) -> None:
    browser.expected_errors = ("503 (Service Unavailable)",)
    reason = "allowed-agents:partitions holds abc, which is not a number"
    made_up.refused = AccessRefusedError(503, reason)
    with serving(made_up, TokenAccess("a-token-of-operators")) as url:
        browser.open(url)
        browser.until(browser.find("#token").is_displayed, "the form for the token")
        browser.find("#token").send_keys("a-token-of-operators", Keys.ENTER)
        browser.until_text("#summary", "The status cannot be read.")
        assert browser.text("#silence-reason") == reason
        made_up.refused = None
        browser.until_text("#summary", "All is well")
        assert not browser.find("#silence").is_displayed()
        browser.driver.get("about:blank")


def test_of_many_causes_the_worst_is_the_headline_and_the_others_are_lines(
    page: Browser, made_up: MadeUpSource
) -> None:
    made_up.current = troubled()
    first, *others = made_up.current.causes
    page.until_text("#summary", first.what)
    assert page.text("#alarm-lookups") == first.lookups
    lines = page.texts("#alarm-others li")
    assert len(lines) == len(others) >= 4
    assert all(cause.what in line for cause, line in zip(others, lines, strict=True))
    assert any("no leader" in what for what in [first.what, *lines])
    # The search stands below what is wrong.
    assert top(page, "#question-section") > top(page, "#letters-section")
    page.prefer(prefers_color_scheme="dark")
    page.screenshot("page-many-causes-dark")
    page.resize(*PHONE, mobile=True)
    assert overflow(page) == 0
    page.screenshot("page-many-causes-phone")


def test_only_partitions_that_differ_from_their_worker_are_rows_until_all_are_wanted(
    page: Browser, made_up: MadeUpSource
) -> None:
    made_up.current = troubled()
    rows = "#partitions tbody tr"
    page.until(lambda: len(page.texts(rows)) == 5, "the five of working workers")
    page.find("#show-all").click()
    page.until(lambda: len(page.texts(rows)) == 200, "every partition")
    numbers = page.driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(r => +r.dataset.partition)", rows
    )
    assert numbers == list(range(200))
    page.find("#show-all").click()
    page.until(lambda: len(page.texts(rows)) == 5, "folded")


def test_a_thousand_partitions_take_no_more_room_than_their_workers(
    page: Browser, made_up: MadeUpSource
) -> None:
    made_up.current = healthy(1000)
    page.resize(*PHONE, mobile=True)
    page.until_text("#workers", "500 fresh: 500-999")
    assert top(page, "#letters-section") < 3 * PHONE[1]
    page.resize(*DESKTOP)
    assert top(page, "#letters-section") < 1.2 * DESKTOP[1]
    page.find("#show-all").click()
    page.until(lambda: len(page.texts("#partitions tbody tr")) == 1000, "every partition")


def test_a_search_in_use_stays_in_its_place_when_trouble_begins(
    page: Browser, made_up: MadeUpSource
) -> None:
    page.find("#job").send_keys("12")
    made_up.current = troubled()
    page.until_text("#summary", made_up.current.causes[0].what)
    assert top(page, "#question-section") < top(page, "#totals")
    page.type("34")
    assert page.find("#job").get_attribute("value") == "1234"


def test_charts_have_a_time_axis_the_bound_and_values_by_pointer_and_keyboard(
    page: Browser,
) -> None:
    ticks = page.texts("#revocations svg text")
    assert {"11:43", "11:48", "11:53", "1 ms", "10 s"} <= set(ticks)
    assert any("PROJECTOR_MAX_STALENESS" in text for text in ticks)
    assert page.text("#revocations-value").startswith("11:53 (this minute): 9 revocations")
    plot = page.find("#revocations .plot")
    script = "return arguments[0].querySelector('svg').getBoundingClientRect().width"
    assert page.driver.execute_script(script, plot) > 550
    ActionChains(page.driver).move_to_element(plot).perform()
    page.until_text(
        "#revocations-value", "11:48: 57 revocations; half within 12 ms, 99 % within 2.4 s"
    )
    ActionChains(page.driver).move_to_element(page.find("h1")).perform()
    page.until_text("#revocations-value", "11:53 (this minute)")
    page.driver.execute_script("arguments[0].focus()", plot)
    page.type(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    page.until_text("#revocations-value", "11:50: no revocation")
    page.type(Keys.HOME)
    page.until_text("#revocations-value", "11:43: 31 revocations")
    assert page.attribute("#revocations-value", "aria-live") == "polite"
    # The chosen minute stays while new data comes.
    page.driver.execute_script("document.querySelector('#revocations svg line').remove()")
    page.until(lambda: page.texts("#revocations svg line") != [], "drawn anew")
    assert page.text("#revocations-value").startswith("11:43")


def test_a_chart_without_data_says_so(page: Browser, made_up: MadeUpSource) -> None:
    nothing = {"events": 0, "revocations": 0, "p50": None, "p99": None, "slowest": None}
    made_up.minutes = [minute | nothing for minute in made_up.minutes]
    page.until_text("#revocations .nothing", "No revocation in these minutes")
    page.until_text("#events .nothing", "No event applied in these minutes")


def test_dead_letters_are_grouped_and_replays_are_marked(
    page: Browser, made_up: MadeUpSource
) -> None:
    done = replace(LETTER, id="0:2", type="nonsense", reason="`nonsense` is not a type of event",
                   replayed="membership 3:40")  # fmt: skip
    half = replace(LETTER, type="group.set", source="/acme/gitlab", reason="not JSON: line 1")
    made_up.found = [
        done,
        *(replace(LETTER, id=f"0:{n}", offset=n) for n in range(50, 9, -1)),
        replace(half, replayed="membership 3:41"),
        half,
    ]
    page.come_back()
    page.until_text("#letters", "41 \u00d7")
    groups = page.texts("#letters summary")
    assert [text.split(" ")[0] for text in groups] == ["41", "2", "1"]
    assert "member.set from /acme/gitlab-events" in groups[0]
    assert "1 of 2 replayed" in groups[1]
    assert "\u2713 replayed" in groups[2]
    assert page.texts("#letters summary code")[:3] == ["int", "str", "data.user_id"]
    page.find("#letters details:nth-of-type(2) summary").click()
    assert page.texts("#letters details[open] td:last-child") == ["as membership 3:41", "no"]
    # A time stays on one line at this width.
    time = page.find("#letters details[open] td.time").size["height"]
    assert time < 40
    page.screenshot("page-dead-letters", of="#letters-section")
    # What is open stays open when another letter comes.
    made_up.found = [replace(LETTER, id="0:51"), *made_up.found]
    page.come_back()
    page.until_text("#letters", "42 \u00d7")
    assert len(page.texts("#letters details[open]")) == 1
