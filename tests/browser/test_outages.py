"""The cause of each outage on the operators' page, of the real product in its order of trouble."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.ports import free_port, is_listening
from tests.browser.browser import PHONE, Browser
from tests.integration import servers
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import Server, eventually

ELSEWHERE = "another-prefix."


class World:
    """A deployment before its topics exist, its servers, and the page of `projector ops`."""

    def __init__(self, deployment: Deployment, kafka: Server, redis: Server) -> None:
        self.deployment = deployment
        self.kafka = kafka
        self.redis = redis
        self.page = self.start_page()

    def start_page(self, **env: str) -> str:
        self.deployment.start("ops", "--port", str(port := free_port()), **env)
        eventually(lambda: is_listening(port), "projector ops")
        return f"http://127.0.0.1:{port}/ops/"


@pytest.fixture(scope="module")
def world(_chromium: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("outages")
    kafka_port, redis_port = free_port(), free_port()
    with (
        servers.running(servers.embedded_kafka(folder, kafka_port)) as kafka,
        servers.running(servers.valkey(folder, redis_port)) as redis,
    ):
        eventually(lambda: is_listening(kafka_port) and is_listening(redis_port), "servers")
        with Deployment(f"127.0.0.1:{kafka_port}", redis_port, "outages.", folder) as deployment:
            # The least that leaves two seconds after the session timeout.
            deployment.env["PROJECTOR_MAX_STALENESS"] = "8"
            yield World(deployment, kafka, redis)


def until_cause(browser: Browser, what: str, lookups: str, advice: str, runbook: str) -> None:
    """Wait for the banner: what is wrong, what lookups get, what to do, and where to read on."""
    browser.until_text("#summary", what, 30)
    browser.until_text("#alarm-lookups", lookups)
    assert advice in browser.text("#alarm-advice")
    assert browser.text("#alarm-runbook") == f"docs/runbook.md#{runbook}"
    assert what in browser.driver.title


def test_topics_that_are_missing_are_the_cause(world: World, browser: Browser) -> None:
    browser.open(world.page)
    until_cause(browser, "Topics are missing in Kafka", "Lookups get 503.",
                "projector topics", "topics-missing")  # fmt: skip
    browser.screenshot("page-topics-missing")


def test_without_a_worker_that_is_the_cause(world: World, browser: Browser) -> None:
    assert world.deployment.command("topics").returncode == 0
    browser.open(world.page)
    until_cause(browser, "No worker has claimed a partition yet.", "Lookups get 503.",
                "projector worker", "no-worker")  # fmt: skip
    assert "unclaimed" in browser.text("#workers tbody")
    browser.screenshot("page-no-worker")


def test_a_killed_worker_is_named_until_another_has_its_partitions(
    world: World, browser: Browser
) -> None:
    browser.open(world.page)
    killed = world.deployment.start("worker")
    browser.until_text("#summary", f"{PARTITIONS} partitions fresh, 1 worker", 40)
    world.deployment.start("worker")
    browser.until_text("#summary", f"{PARTITIONS} partitions fresh, 2 workers", 40)
    killed.kill()
    browser.until_text("#summary", "The worker ", 15)
    browser.until_text("#workers", "■ silent")
    assert browser.attribute("#workers tbody tr", "data-state") == "silent"
    assert "session" in browser.text("#alarm-advice").lower()
    assert browser.text("#alarm-since").startswith("Since ")
    browser.screenshot("page-worker-gone")
    browser.until_text("#summary", f"{PARTITIONS} partitions fresh, 1 worker", 40)
    assert not browser.find("#alarm").is_displayed()


def test_a_page_of_other_topics_shows_that_they_are_others(world: World, browser: Browser) -> None:
    browser.open(world.start_page(PROJECTOR_TOPIC_PREFIX=ELSEWHERE))
    browser.until_text("#alarm-others", "take their events from other topics")
    assert ELSEWHERE in browser.text("#deployment")
    browser.screenshot("page-other-topics")


def test_a_redis_without_memory_is_the_cause_and_not_the_silent_workers(
    world: World, browser: Browser
) -> None:
    browser.open(world.page)
    browser.until_text("#summary", f"{PARTITIONS} partitions fresh")
    world.deployment.redis.config_set("maxmemory", 1)
    try:
        until_cause(browser, "Redis refuses writes.", "Lookups get 503.",
                    "more memory", "redis-refuses-writes")  # fmt: skip
        assert "its memory is full" in browser.text("#alarm-detail")
    finally:
        world.deployment.redis.config_set("maxmemory", 0)
    browser.until_text("#summary", f"{PARTITIONS} partitions fresh", 40)


def test_kafka_that_is_away_is_the_cause(world: World, browser: Browser) -> None:
    browser.open(world.page)
    browser.until_text("#summary", f"{PARTITIONS} partitions fresh")
    world.kafka.kill()
    until_cause(browser, "Kafka cannot be reached.", "Lookups get 503.",
                "Start Kafka", "kafka-unreachable")  # fmt: skip
    assert browser.text("#alarm-since").startswith("Since ")
    assert "AddressFamily" not in browser.find("body").text
    # The search stands below what the operator needs now.
    last = "return document.querySelector('#board > :last-child').id"
    assert browser.driver.execute_script(last) == "question-section"
    browser.screenshot("page-kafka-away")
    browser.resize(*PHONE, mobile=True)
    browser.screenshot("page-kafka-away-phone")


def test_redis_that_is_away_is_the_cause_and_the_data_looks_old(
    world: World, browser: Browser
) -> None:
    browser.open(world.page)
    browser.until(lambda: browser.texts("#workers tbody tr") != [], "the workers")
    world.redis.kill()
    until_cause(browser, "Redis cannot be reached.", "Lookups get 503.",
                "Start Redis", "redis-unreachable")  # fmt: skip
    assert "(" not in browser.text("#alarm-detail")
    assert browser.driver.execute_script("return 'old' in document.querySelector('#board').dataset")
    browser.until(
        lambda: browser.attribute("#updated", "data-state") == "stale", "it looks old", 15
    )
    assert browser.texts("#workers tbody tr") != []
    browser.screenshot("page-redis-away")
    browser.open(world.page)
    browser.until_text("#summary", "Redis cannot be reached.")
    assert browser.text("#updated") == "no data yet"
    assert not browser.find("#known").is_displayed()
