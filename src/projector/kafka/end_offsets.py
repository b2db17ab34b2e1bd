"""End offsets of partitions, asked of a leader once for all owners that ask at the same moment.

A leader that does not answer costs its own partitions; a partition that it refuses costs that one.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from typing import NamedTuple, cast

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from projector.joined_calls import Calls, JoinedCalls
from projector.kafka.broker_connections import FAILURES, BrokerConnections
from projector.kafka.broker_protocol import Leaders, PartitionLeader, ask_offsets

Offsets = dict[TopicPartition, int]


class _Call(NamedTuple):
    """One owner's question to one broker: an end of the logs that it leads at these epochs."""

    broker: int
    end: int
    committed: bool
    leaders: tuple[tuple[TopicPartition, PartitionLeader], ...]


class EndOffsets:
    """Questions to leaders for the ends of their logs."""

    def __init__(self, brokers: BrokerConnections) -> None:
        self._brokers = brokers
        self._calls: JoinedCalls[_Call, Offsets] = JoinedCalls(self._ask_all)

    async def read(self, leaders: Leaders, end: int, *, committed: bool) -> Offsets:
        """Return one end of each log; raises `KafkaError`, `OSError` and `TimeoutError`."""
        by_broker: dict[int, list[tuple[TopicPartition, PartitionLeader]]] = {}
        for tp, leader in leaders.items():
            by_broker.setdefault(leader.leader, []).append((tp, leader))
        calls = [
            self._calls.ask(_Call(broker, end, committed, tuple(led)))
            for broker, led in by_broker.items()
        ]
        # One broker often leads all three logs, and `gather` costs as much as the call.
        found = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
        return {tp: offset for offsets in found for tp, offset in offsets.items()}

    async def _ask_all(self, calls: Calls[_Call, Offsets]) -> None:
        ordered = sorted(calls, key=_question)
        await asyncio.gather(
            *(self._ask(together, calls)
              for _, alike in groupby(ordered, _question) for together in _compatible(alike))
        )  # fmt: skip

    async def _ask(self, together: list[_Call], calls: Calls[_Call, Offsets]) -> None:
        broker, end, committed = _question(together[0])
        leaders = {tp: leader for call in together for tp, leader in call.leaders}
        ask = partial(ask_offsets, leaders=leaders, end=end, committed=committed)
        try:
            found = await self._brokers.ask(broker, ask)
        except FAILURES as error:
            for call in together:
                calls.fail(call, error)
            return
        for call in together:
            offsets = {tp: found[tp] for tp, _ in call.leaders if tp in found}
            refusals = [each for each in offsets.values() if isinstance(each, KafkaError)]
            if len(offsets) < len(call.leaders):
                # A partition must not count as fresh without knowing the events of one topic.
                refusals.append(KafkaError(f"broker {broker} left a partition out of its answer"))
            if refusals:
                calls.fail(call, refusals[0])
            else:
                calls.answer(call, cast(Offsets, offsets))


def _question(call: _Call) -> tuple[int, int, bool]:
    return call.broker, call.end, call.committed


def _compatible(calls: Iterable[_Call]) -> list[list[_Call]]:
    """Split calls that name different epochs of one partition: a broker refuses one of these."""
    questions: list[list[_Call]] = []
    named: list[dict[TopicPartition, PartitionLeader]] = []
    for call in calls:
        fitting = (at for at, leaders in enumerate(named) if _fits(call, leaders))
        at = next(fitting, len(named))
        if at == len(named):
            questions.append([])
            named.append({})
        questions[at].append(call)
        named[at].update(call.leaders)
    return questions


def _fits(call: _Call, named: Leaders) -> bool:
    return all(named.get(tp, leader) == leader for tp, leader in call.leaders)
