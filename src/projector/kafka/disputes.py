"""Disputes: brokers that name different leaders, reported once at the start and once at the end."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from aiokafka import TopicPartition

from projector import metrics
from projector.kafka.broker_protocol import Leaders

log = structlog.get_logger()

# Brokers learn of a new leader one after the other, so a shorter difference is normal.
NORMAL_S: Final = 2.0
ADVICE: Final = (
    "see which broker does not reach the controller; partitions without enough witnesses get 503"
)


class Disputes:
    """Partitions whose leader is disputed by brokers, and the beginning of it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._reported = False

    def note(self, answers: Mapping[int, Leaders]) -> None:
        """Compare the latest answers of all brokers, by the broker's id."""
        disputed = _disputed(answers)
        metrics.DISPUTED_LEADERS.set(len(disputed))
        now = asyncio.get_running_loop().time()
        if not disputed:
            self._end(now)
        elif self._since is None:
            self._since = now
        elif not self._reported and now - self._since > NORMAL_S:
            self._reported = True
            first = disputed[0]
            named = {broker: leaders[first][:2] for broker, leaders in answers.items()
                     if first in leaders}  # fmt: skip
            log.warning(
                "brokers disagree about leaders", count=len(disputed), topic=first.topic,
                partition=first.partition, leader_and_epoch_by_broker=named, advice=ADVICE,
            )  # fmt: skip

    def _end(self, now: float) -> None:
        if self._reported and self._since is not None:
            log.info("brokers agree about leaders again", seconds=round(now - self._since, 1))
        self._since, self._reported = None, False


def _disputed(answers: Mapping[int, Leaders]) -> list[TopicPartition]:
    """Return the partitions whose leader or epoch two brokers name differently."""
    first, *others = answers.values()
    # Nearly always equal, and then compared fast.
    if all(other == first for other in others):
        return []
    partitions = sorted({tp for leaders in answers.values() for tp in leaders})
    named = (
        {leaders[tp][:2] for leaders in answers.values() if tp in leaders} for tp in partitions
    )
    return [tp for tp, found in zip(partitions, named, strict=True) if len(found) > 1]
