"""The servers and clocks in the answers of Redis: who answers, and at what time."""

import time
from typing import Any

import pytest

from projector.clients.redis_cluster import CommandResult, words
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import HOLD_S, TOLERANCE_MS, ClockError
from projector.elapsed import elapsed


class Answers:
    """Answers of servers by their address, with a run of their own and a clock that may jump."""

    def __init__(self, *places: str) -> None:
        self.servers = RedisServers()
        self.servers.cluster = places != ("",)
        self.runs = dict.fromkeys(places, "a")
        self.logs = dict.fromkeys(places, "log")
        self.ahead_ms = dict.fromkeys(places, 0.0)

    async def note(self, took_s: float = 0.0) -> None:
        answers = [answer for place in self.runs for answer in self._of(place)]
        await self.servers.note(answers, elapsed() - took_s)

    def _of(self, place: str) -> list[CommandResult]:
        now = time.time() * 1000 + self.ahead_ms[place]
        infos: list[dict[str, Any]] = [
            {"run_id": self.runs[place]}, {"master_replid": self.logs[place]},
        ]  # fmt: skip
        return [CommandResult(info, now, place) for info in infos]


async def test_a_server_that_goes_on_is_no_change() -> None:
    answers = Answers("")
    for _ in range(3):
        await answers.note()
    assert answers.servers.changes == 0
    assert answers.servers.identity("") == "a log"
    assert answers.servers.expected_time("") == pytest.approx(time.time() * 1000, abs=100)


@pytest.mark.parametrize("part", ["runs", "logs"])
async def test_another_run_or_replication_id_on_the_same_connection_is_a_change(part: str) -> None:
    answers = Answers("")
    await answers.note()
    getattr(answers, part)[""] = "b"
    await answers.note()
    await answers.note()
    assert answers.servers.changes == 1


async def test_without_info_nothing_is_compared() -> None:
    servers = RedisServers()
    now = time.time() * 1000
    await servers.note([CommandResult(ValueError("no INFO here"), now)], elapsed())
    assert servers.identity("") == ""
    assert servers.changes == 0


async def test_one_wrong_clock_of_a_cluster_is_enough() -> None:
    """Any server may hold the views whose keys it has expired."""
    answers = Answers("a:1", "b:1")
    await answers.note()
    answers.ahead_ms["b:1"] = 2 * TOLERANCE_MS
    with pytest.raises(ClockError, match=f"before {HOLD_S:g} s"):
        await answers.note()
    assert answers.servers.changes == 0
    answers.ahead_ms["b:1"] = 0
    await answers.note()
    assert answers.servers.changes == 1


async def test_an_answer_that_took_long_is_no_reading() -> None:
    """The process may have slept meanwhile, and any step of the clock would fit in."""
    answers = Answers("")
    await answers.note()
    answers.ahead_ms[""] = -8000
    await answers.note(took_s=12)
    assert answers.servers.expected_time("") == pytest.approx(time.time() * 1000, abs=100)
    with pytest.raises(ClockError):
        await answers.note()


def test_the_key_that_chooses_a_server_is_not_sent() -> None:
    assert words(("INFO", "server", "key")) == ("INFO", "server")
    assert words(("GET", "key")) == ("GET", "key")
