"""The check of Kafka for `projector gitlab`: its topics, and the state that belongs to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from projector.clients import kafka
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import OperatorError, TemporaryError
from projector.events.model import SOURCES, Topic
from projector.gitlab import lost_state
from projector.gitlab.mapping.state import State
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.sender import Sender
from projector.gitlab.setup.findings import Finding
from projector.gitlab.setup.kafka_requirements import check_sources, check_topics
from projector.kafka import topics
from projector.kafka.range_reader import RangeReader

# A Kafka that accepts connections and stands still must not hold up the check.
ANSWER_S: Final = 10.0


async def check_kafka(settings: Settings, gitlab: GitlabSettings) -> list[Finding]:
    """Find what is wrong with the topics, and why `run` would refuse the state.

    Raises `KafkaError`, and `TemporaryError` if Kafka does not answer in time.
    """
    async with _in_time():
        found = [*check_sources(settings), *await check_topics(settings)]
        try:
            async with _reading(gitlab) as state:
                if all(each.is_hint for each in found):
                    await _require_nothing_lost(settings, state)
        except OperatorError as error:
            found.append(Finding(f"{error}."))
    return found


async def _require_nothing_lost(settings: Settings, state: OwnThread[State]) -> None:
    counts = await topics.check_topics(settings)
    reader = await kafka.started(RangeReader(settings))
    try:
        sender = Sender(settings, reader, state, counts[Topic.MEMBERSHIP])
        await lost_state.require_nothing_lost(
            state, sender, settings, has_sources=SOURCES in counts
        )
    finally:
        await reader.stop()


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_S):
            yield
    except TimeoutError:
        raise TemporaryError(f"no answer within {ANSWER_S:g} s") from None


@asynccontextmanager
async def _reading(gitlab: GitlabSettings) -> AsyncIterator[OwnThread[State]]:
    """Open the state to read it; a bridge may use it meanwhile."""
    thread = OwnThread("state", lambda: State(gitlab.state, by_counter=False, read_only=True))
    try:
        await thread.created()
        yield thread
        await thread.run(State.close)
    finally:
        thread.stop()
