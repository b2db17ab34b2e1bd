"""Kafka's topics as the ingest last found them."""

import asyncio
from typing import Final, NoReturn

import structlog
from aiokafka.errors import KafkaError

from projector.config.settings import Settings
from projector.errors import OperatorError, TemporaryError
from projector.events.model import SOURCES, Topic
from projector.ingest import metrics
from projector.ingest.refusals import unavailable
from projector.kafka import topics

log = structlog.get_logger()

CHECK_INTERVAL_S: Final = 3.0
_FAILURES: Final = (KafkaError, OperatorError, TemporaryError, OSError, TimeoutError)


class Readiness:
    """The state of Kafka's topics, checked every three seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._partitions: int | None = None
        self._has_sources = False
        self.fault: str | None = "Kafka has not answered yet"
        metrics.READY.set(0)

    @property
    def partitions(self) -> int:
        """The number of partitions of each topic; raises `RefusedRequestError` if not ready."""
        if self.fault or self._partitions is None:
            raise unavailable(f"events cannot be taken now: {self.fault}")
        return self._partitions

    def require_sources(self) -> None:
        """Raise `RefusedRequestError` without the topic of heartbeats."""
        if not self._has_sources:
            raise unavailable(
                f"the topic {self._settings.topic(SOURCES)} is missing: create it with "
                "`projector topics`"
            )

    async def watch(self) -> NoReturn:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def check(self) -> None:
        """Check the topics once."""
        try:
            found = await topics.check_topics(self._settings)
        except OperatorError as error:
            self._note(str(error))
        except _FAILURES:
            self._note("Kafka cannot be reached")
        except Exception as error:  # or the last finding would stay, unchecked
            self._note(f"the check of Kafka's topics failed: {type(error).__name__}")
        else:
            self._has_sources = SOURCES in found
            self._note(self._changed(found[Topic.MEMBERSHIP]))

    def _changed(self, count: int) -> str | None:
        """Return the fault of another number of partitions than at the start, or None.

        A root namespace would be in another partition than before, without its earlier events.
        """
        self._partitions = self._partitions or count
        if count == self._partitions:
            return None
        return (
            f"the topics have {count} partitions, and had {self._partitions} when the ingest "
            "started. Start it again once workers run on the new topics"
        )

    def _note(self, fault: str | None) -> None:
        if fault and fault != self.fault:
            log.error("not ready, requests get 503", reason=fault)
        elif self.fault and not fault:
            log.info("ready", partitions=self._partitions)
        self.fault = fault
        metrics.READY.set(0 if fault else 1)
