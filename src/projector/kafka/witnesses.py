"""Witnesses: a partition's leader counts once enough of its replicas have named it.

A leader that was deposed while it was cut off does not know it, and answers as before. A write is
acknowledged by at least `min.insync.replicas` replicas, which all know the leader of then. So
`replicas - min.insync.replicas + 1` replicas include one of those, whichever they are. The end
offsets are asked afterwards, of that leader at that epoch: it refuses if it does not lead yet.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import StaleMetadata

from projector.config.settings import Settings
from projector.errors import NoAgreementError
from projector.events.model import SOURCES, Topic
from projector.joined_calls import Calls, JoinedCalls
from projector.kafka.broker_connections import FAILURES, BrokerConnections
from projector.kafka.broker_protocol import (
    NO_BROKER,
    BrokerAnswer,
    Leaders,
    PartitionLeader,
    ask_leaders,
)
from projector.kafka.client_metadata import ClientMetadata
from projector.kafka.disputes import Disputes
from projector.kafka.end_offsets import EndOffsets
from projector.kafka.minimum_in_sync import MinimumInSync

REQUEST_TIMEOUT_MS: Final = 2000
# A broker is asked no sooner than this after the last question, so that one serves many owners.
SPACING_S: Final = 0.01

# A broker that has no copy any more is not asked again, and its last answer is soon wrong.
RECENT_S: Final = 5.0

Answer = BrokerAnswer | Exception
Partitions = tuple[TopicPartition, ...]


class _Known(NamedTuple):
    """The leaders that a broker named, at a time of the loop's clock."""

    at: float
    leaders: Leaders


def agreed_leader(named: Mapping[int, PartitionLeader], minimum: int) -> PartitionLeader | None:
    """Return the leader that enough of the partition's replicas name.

    `named` is by the broker that answered, `minimum` the topic's `min.insync.replicas`. Of two
    leaders that enough replicas name, the later one counts.
    """
    enough = []
    for leader in set(named.values()):
        witnesses = leader.replicas & {broker for broker, other in named.items() if other == leader}
        needed = len(leader.replicas) - min(minimum, len(leader.replicas)) + 1
        if leader.leader != NO_BROKER and len(witnesses) >= needed:
            enough.append(leader)
    return max(enough, key=lambda leader: leader.epoch, default=None)


class Witnesses:
    """The brokers, asked for leaders and then for the ends of the logs."""

    def __init__(self, settings: Settings) -> None:
        names = [*Topic, SOURCES] if settings.source_names else [*Topic]
        self._topics = [settings.topic(name) for name in names]
        self._brokers = BrokerConnections(settings, request_timeout_ms=REQUEST_TIMEOUT_MS)
        self._minimum = MinimumInSync(self._brokers, self._topics)
        self._clients = ClientMetadata(self._brokers)
        self._disputes = Disputes()
        self._ends = EndOffsets(self._brokers)
        self._agreements: JoinedCalls[Partitions, Leaders] = JoinedCalls(self._agree)
        self._witnesses: dict[int, _Witness] = {}
        # The latest answer of each broker that answers, and its time.
        self._answers: dict[int, _Known] = {}
        self._background: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to any broker; raises `KafkaError` if none answers."""
        answer = await self._brokers.ask_any(self._ask_leaders)
        self._brokers.learn(answer.addresses)
        await self._minimum.read()
        self._background = asyncio.create_task(self._minimum.follow())

    async def stop(self) -> None:
        """End all questions, and close the connections."""
        tasks: list[asyncio.Task[Any]] = [t for w in self._witnesses.values() for t in w.running]
        tasks += [self._background] if self._background else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._brokers.close()

    def follow(self, consumer: AIOKafkaConsumer) -> None:
        """Correct what this consumer takes for leaders, from now on; call it in its loop."""
        self._clients.add(consumer)

    async def offsets(
        self, agreed: Leaders, end: int, *, committed: bool = False
    ) -> dict[TopicPartition, int]:
        """Ask the leaders that enough replicas name for one end of their partitions' logs.

        With `committed`, the latest end is at the first open transaction.
        Raises `KafkaError`, `OSError` and `TimeoutError`.
        """
        return await self._ends.read(agreed, end, committed=committed)

    async def agree(self, partitions: Collection[TopicPartition]) -> Leaders:
        """Return the leaders that enough replicas name, in answers to questions from now on.

        A broker that does not answer is not waited for, once the others are enough.
        Raises `KafkaError` and `NoAgreementError`.
        """
        return await self._agreements.ask(tuple(partitions))

    async def _agree(self, calls: Calls[Partitions, Leaders]) -> None:
        """Ask all replicas, and answer each owner as soon as enough of its own have answered."""
        known = await self._known_leaders(list(chain(*calls)))
        pending = {self._ask(broker): broker for broker in _replicas_of(chain(*calls), known)}
        answers: dict[int, Leaders] = {}
        while calls:
            if pending:
                answers |= await _next_answers(pending)
            asked = frozenset(pending.values())
            for partitions in calls:
                agreed = self._agreed(answers, partitions)
                if len(agreed) == len(partitions):
                    self._clients.correct(agreed, answers)
                    calls.answer(partitions, agreed)
                elif asked.isdisjoint(_replicas_of(partitions, known)):
                    reason = _disagreement(answers, partitions, agreed)
                    calls.fail(partitions, NoAgreementError(reason))

    def _agreed(self, answers: Mapping[int, Leaders], partitions: Partitions) -> Leaders:
        agreed = {}
        for tp in partitions:
            named = {broker: leaders[tp] for broker, leaders in answers.items() if tp in leaders}
            if leader := agreed_leader(named, self._minimum.of(tp.topic)):
                agreed[tp] = leader
        return agreed

    async def _known_leaders(self, partitions: Collection[TopicPartition]) -> list[Leaders]:
        """Return recent answers about leaders, in which some broker names each partition's."""
        known = list(self._recent_answers().values())
        if not all(any(tp in leaders for leaders in known) for tp in partitions):
            answer = await self._brokers.ask_any(self._ask_leaders)
            self._brokers.learn(answer.addresses)
            known = [*known, answer.leaders]
        return known

    def _ask(self, broker: int) -> asyncio.Future[Answer]:
        if broker not in self._witnesses:
            self._witnesses[broker] = _Witness(self, broker)
        return self._witnesses[broker].ask()

    async def question(self, broker: int) -> Answer:
        """Ask one broker for all leaders, and keep its answer."""
        try:
            answer = await self._brokers.ask(broker, self._ask_leaders)
            if not self._brokers.is_at_its_address(broker, answer.addresses):
                raise StaleMetadata(f"broker {broker} is no longer where it was")
        except FAILURES as error:
            self._answers.pop(broker, None)
            return error
        self._brokers.learn(answer.addresses)
        self._answers[broker] = _Known(asyncio.get_running_loop().time(), answer.leaders)
        self._disputes.note(self._recent_answers())
        return answer

    def _recent_answers(self) -> dict[int, Leaders]:
        """Return the answers that are no older than `RECENT_S`, by the broker's id."""
        begin = asyncio.get_running_loop().time() - RECENT_S
        return {b: known.leaders for b, known in self._answers.items() if known.at >= begin}

    async def _ask_leaders(self, connection: AIOKafkaConnection) -> BrokerAnswer:
        return await ask_leaders(connection, self._topics)


async def _next_answers(pending: dict[asyncio.Future[Answer], int]) -> dict[int, Leaders]:
    """Wait for the next brokers; take their questions out, and return the leaders they name."""
    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    found = {pending.pop(question): question.result() for question in done}
    return {b: answer.leaders for b, answer in found.items() if not isinstance(answer, Exception)}


def _replicas_of(
    partitions: Iterable[TopicPartition], known: Collection[Leaders]
) -> frozenset[int]:
    """Return the brokers that any broker names as replicas of the partitions."""
    return frozenset[int]().union(
        *(leaders[tp].replicas for tp in partitions for leaders in known if tp in leaders)
    )


class _Witness:
    """One broker, asked once for all owners that wait for a question to begin."""

    def __init__(self, witnesses: Witnesses, broker: int) -> None:
        self._witnesses = witnesses
        self._broker = broker
        self._began = 0.0
        self._asking: asyncio.Task[Answer] | None = None
        self._next: asyncio.Task[Answer] | None = None

    @property
    def running(self) -> list[asyncio.Task[Answer]]:
        """The questions that have no answer yet."""
        return [task for task in (self._asking, self._next) if task]

    def ask(self) -> asyncio.Future[Answer]:
        """Return the answer to a question that begins after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._question(self._asking))
        return asyncio.shield(self._next)

    async def _question(self, before: asyncio.Task[Answer] | None) -> Answer:
        clock = asyncio.get_running_loop().time
        if before:
            await asyncio.wait([before])
        await asyncio.sleep(max(0.0, self._began + SPACING_S - clock()))
        # Who asks from here on gets the next question.
        self._asking, self._next, self._began = self._next, None, clock()
        return await self._witnesses.question(self._broker)


def _disagreement(
    answers: Mapping[int, Leaders],
    partitions: Collection[TopicPartition],
    agreed: Collection[TopicPartition],
) -> str:
    """Return which broker names which leader of the first partition without agreement."""
    tp = next(each for each in partitions if each not in agreed)
    named = "; ".join(
        f"broker {broker}: {_named(leaders.get(tp))}" for broker, leaders in sorted(answers.items())
    )
    return f"too few replicas of {tp.topic} {tp.partition} name the same leader: {named or 'none'}"


def _named(leader: PartitionLeader | None) -> str:
    if leader is None or leader.leader == NO_BROKER:
        return "no leader"
    return f"leader {leader.leader}, epoch {leader.epoch}"
