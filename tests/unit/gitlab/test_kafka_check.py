"""The check names what `run` would refuse: the state, and the topics that belong to it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import TemporaryError
from projector.events.model import SOURCES, Topic
from projector.gitlab import kafka_check, lost_state
from projector.gitlab.kafka_check import check_kafka
from projector.gitlab.last_sent import LastSent
from projector.gitlab.mapping.state import Mark, Position, State
from projector.gitlab.mapping.tables import Change
from projector.kafka import topics

SETTINGS = Settings(sources="gitlab")
NAME = "a-state"


class Kafka:
    """Topics with so many events in each partition, and the mark of the last heartbeat."""

    def __init__(self) -> None:
        self.end = 0
        self.sent: LastSent | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def ends(self, _partition: int) -> dict[Topic, int]:
        return dict.fromkeys(Topic, self.end)

    async def has_reached(self, *_: object) -> bool:
        return False


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()

    async def check_topics(_settings: Settings) -> dict[str, int]:
        return {**dict.fromkeys(Topic, 1), SOURCES: 1}

    async def find_risks(_settings: Settings) -> list[str]:
        return []

    async def read_last_sent(_settings: Settings) -> LastSent | None:
        return kafka.sent

    monkeypatch.setattr(topics, "check_topics", check_topics)
    monkeypatch.setattr(topics, "find_risks", find_risks)
    monkeypatch.setattr(lost_state, "read_last_sent", read_last_sent)
    monkeypatch.setattr(kafka_check, "RangeReader", lambda _settings: kafka)
    return kafka


def gitlab(path: Path) -> GitlabSettings:
    return GitlabSettings(database="host=nowhere", state=path)  # type: ignore[arg-type]


def filled(path: Path) -> State:
    """A state that has sent one event."""
    state = State(path, by_counter=True)
    state.note(lost_state.NAME, NAME)
    state.start_snapshot({"main": Position(0, 0, "1", 1)})
    state.finish_snapshot()
    state.apply([Change("users", 7, (7, "u7", "blocked"))])
    assert state.finish(Mark("main", 1, None)).last_number == 1
    return state


async def sentences(path: Path) -> list[str]:
    return [each.sentence for each in await check_kafka(SETTINGS, gitlab(path))]


async def test_no_state_and_empty_topics_are_a_beginning(kafka: Kafka, tmp_path: Path) -> None:
    path = tmp_path / "gitlab.db"
    assert await sentences(path) == []
    assert not path.exists()
    path.touch()
    assert await sentences(path) == []
    assert path.stat().st_size == 0


async def test_no_state_and_topics_with_events_need_an_audit(kafka: Kafka, tmp_path: Path) -> None:
    kafka.end = 5
    (found,) = await sentences(tmp_path / "gitlab.db")
    assert "the state is empty, but the topics are not" in found
    assert "run --audit" in found


async def test_a_state_that_is_in_use_is_good(kafka: Kafka, tmp_path: Path) -> None:
    kafka.end, kafka.sent = 5, LastSent(NAME, 1)
    path = tmp_path / "gitlab.db"
    with closing(filled(path)) as state:
        assert await sentences(path) == []
        assert state.last_number == 1
    before = path.read_bytes()
    assert await sentences(path) == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("sent", [LastSent(NAME, 2), LastSent("another", 1)])
async def test_a_state_that_was_put_back_is_named(
    kafka: Kafka, tmp_path: Path, sent: LastSent
) -> None:
    kafka.end, kafka.sent = 5, sent
    path = tmp_path / "gitlab.db"
    filled(path).close()
    (found,) = await sentences(path)
    assert "the state is older than what was sent" in found


async def test_topics_that_were_made_anew_are_named(kafka: Kafka, tmp_path: Path) -> None:
    path = tmp_path / "gitlab.db"
    with closing(filled(path)) as state:
        state.acknowledged(1, {Topic.MEMBERSHIP: {0: 9}})
        state.settle()
    (found,) = await sentences(path)
    assert "Kafka had acknowledged 9" in found


async def test_a_file_that_is_no_state_is_named(kafka: Kafka, tmp_path: Path) -> None:
    path = tmp_path / "gitlab.db"
    path.write_text("lines of a text\n" * 500)
    (found,) = await sentences(path)
    assert "it is not an SQLite file" in found
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE others (id)")
    (found,) = await sentences(path)
    assert "it belongs to another program" in found
    path.unlink()
    filled(path).close()
    with closing(sqlite3.connect(path)) as later:
        later.execute("UPDATE meta SET value = 99 WHERE name = 'schema'")
        later.commit()
    (found,) = await sentences(path)
    assert "it has version 99" in found


@pytest.mark.usefixtures("kafka")
@pytest.mark.parametrize("sources", ["", "other"])
async def test_workers_that_wait_for_no_heartbeat_are_a_hint(tmp_path: Path, sources: str) -> None:
    settings = Settings(sources=sources)
    (found,) = await check_kafka(settings, gitlab(tmp_path / "gitlab.db"))
    assert found.is_hint
    assert found.remedies[0].text in {
        "PROJECTOR_SOURCES=gitlab", "PROJECTOR_SOURCES=other,gitlab",
    }  # fmt: skip


@asynccontextmanager
async def frozen() -> AsyncIterator[str]:
    """A server that accepts connections and never answers."""
    open_ones: list[Any] = []

    def connected(*streams: Any) -> None:
        open_ones.extend(streams)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for stream in open_ones[1::2]:
            stream.close()


async def test_a_kafka_that_stands_still_ends_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_check, "ANSWER_S", 0.3)
    async with frozen() as address, asyncio.timeout(5):
        settings = Settings(kafka=address, sources="gitlab")
        with pytest.raises(TemporaryError, match=r"no answer within 0\.3 s"):
            await check_kafka(settings, gitlab(tmp_path / "gitlab.db"))
