"""Witnesses: a leader counts once enough replicas have named it, after the question was put."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, NotLeaderForPartitionError
from structlog.testing import capture_logs

from projector import metrics
from projector.config.settings import Settings
from projector.errors import NoAgreementError
from projector.events.model import Topic
from projector.kafka import disputes
from projector.kafka.broker_connections import BrokerConnections
from projector.kafka.broker_protocol import (
    EARLIEST,
    LATEST,
    NO_BROKER,
    Address,
    BrokerAnswer,
    PartitionLeader,
)
from projector.kafka.range_reader import RangeReader
from projector.kafka.witnesses import Witnesses, agreed_leader

TP = TopicPartition("membership", 0)
OTHER = TopicPartition("agent-config", 0)
LIST_OFFSETS = 2


def leader(number: int, epoch: int = 5, replicas: tuple[int, ...] = (1, 2, 3)) -> PartitionLeader:
    return PartitionLeader(number, epoch, frozenset(replicas))


OLD, NEW = leader(1, 5), leader(2, 6)


@pytest.mark.parametrize(
    ("named", "minimum", "agreed"),
    [
        # Three copies of which two acknowledge: any two replicas include one that knows.
        ({1: OLD, 2: NEW}, 2, None),
        ({1: OLD, 2: NEW, 3: NEW}, 2, NEW),
        ({1: OLD, 3: OLD}, 2, OLD),
        ({1: OLD}, 2, None),
        # One may acknowledge alone, so each must agree.
        ({2: NEW, 3: NEW}, 1, None),
        ({1: NEW, 2: NEW, 3: NEW}, 1, NEW),
        # All must acknowledge, so each knows; the later one is at least as good.
        ({1: OLD}, 3, OLD),
        ({1: OLD, 2: NEW}, 3, NEW),
        # More than there are copies of: Kafka then asks for all copies.
        ({1: OLD}, 4, OLD),
        # Two copies.
        ({1: leader(1, replicas=(1, 2))}, 1, None),
        ({1: leader(1, replicas=(1, 2))}, 2, leader(1, replicas=(1, 2))),
        # One copy, and one broker.
        ({7: leader(7, replicas=(7,))}, 1, leader(7, replicas=(7,))),
        # The same broker at another epoch is another leader.
        ({1: leader(1, 5), 2: leader(1, 7), 3: leader(3, 6)}, 2, None),
        # A broker without a copy is no witness.
        ({1: OLD, 4: OLD}, 2, None),
        # Without a leader there is nobody to ask.
        ({1: leader(NO_BROKER), 2: leader(NO_BROKER), 3: leader(NO_BROKER)}, 2, None),
        ({}, 2, None),
    ],
)
def test_any_witnesses_that_are_enough_include_one_that_knows(
    named: dict[int, PartitionLeader], minimum: int, agreed: PartitionLeader | None
) -> None:
    assert agreed_leader(named, minimum) == agreed


class Connection:
    """A connection to one broker of the cluster."""

    def __init__(self, cluster: "Cluster", broker: int) -> None:
        self._cluster = cluster
        self._broker = broker

    async def send(self, request: Any) -> Any:
        cluster, broker = self._cluster, self._broker
        match request.API_KEY:
            case 3:
                cluster.asked.append((broker, "leaders"))
                known = cluster.named[broker]
                await cluster.answering[broker].wait()
                if broker in cluster.down:
                    raise KafkaConnectionError(f"broker {broker} is down")
                addresses = {each: Address("kafka", each) for each in cluster.named}
                return BrokerAnswer(addresses, known)
            case 2:
                cluster.asked.append((broker, "ends"))
                return SimpleNamespace(topics=cluster.ends(broker, request))
        entries = [(0, "", 2, topic, [("min.insync.replicas", str(n), False)])
                   for topic, n in cluster.minimum.items()]  # fmt: skip
        return SimpleNamespace(resources=entries)


class Cluster:
    """Brokers with what each of them knows, in place of the connections to them."""

    def __init__(self) -> None:
        self.named: dict[int, dict[TopicPartition, PartitionLeader]] = {}
        self.minimum = {"membership": 2, "agent-config": 2}
        self.asked: list[tuple[int, str]] = []
        self.answering: dict[int, asyncio.Event] = {}
        self.down: set[int] = set()
        self.refuses: set[int] = set()
        self.refuses_topics: set[str] = set()
        self.leaves_out: set[str] = set()
        # Brokers at whose former address another one listens.
        self.moved: set[int] = set()

    def knows(self, **named: PartitionLeader | dict[TopicPartition, PartitionLeader]) -> None:
        """Set what each broker, `b1` and so on, names as the leader."""
        for name, found in named.items():
            number = int(name[1:])
            self.named[number] = found if isinstance(found, dict) else {TP: found}
            self.answering.setdefault(number, asyncio.Event()).set()

    def ends(self, broker: int, request: Any) -> Any:
        asked = request.prepare({LIST_OFFSETS: (0, 4)}).topics
        return [
            (topic, [(p, self._code(broker, topic), 0, 100 * broker + epoch, epoch)
                     for p, epoch, _ in partitions])
            for topic, partitions in asked if topic not in self.leaves_out
        ]  # fmt: skip

    def _code(self, broker: int, topic: str) -> int:
        return 74 if broker in self.refuses or topic in self.refuses_topics else 0

    async def ask(self, broker: int, question: Any) -> Any:
        connection: Any = Connection(self, broker)
        return await question(connection)

    async def ask_any(self, question: Any) -> Any:
        answer = await self.ask(next((b for b in self.named if b not in self.down), 0), question)
        self.asked.clear()
        return answer

    def learn(self, addresses: Mapping[int, Address]) -> None:
        assert all(isinstance(address, Address) for address in addresses.values())

    def is_at_its_address(self, broker: int, addresses: Mapping[int, Address]) -> bool:
        return broker in addresses and broker not in self.moved

    async def close(self) -> None:
        pass


def use(witnesses: Witnesses, cluster: Cluster) -> None:
    brokers: Any = cluster
    for part in (witnesses, witnesses._minimum, witnesses._clients, witnesses._ends):
        assert isinstance(part._brokers, BrokerConnections)
        part._brokers = brokers


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def witnesses(cluster: Cluster) -> Any:
    found = Witnesses(Settings())
    use(found, cluster)
    await found._minimum.read()
    yield found
    await found.stop()


async def ends(witnesses: Witnesses) -> dict[TopicPartition, int]:
    return await witnesses.offsets(await witnesses.agree([TP]), LATEST)


async def test_the_ends_are_asked_after_the_witnesses_of_the_leader_that_they_name(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """So a broker that leads again, and does not know it yet, refuses its old epoch."""
    cluster.knows(b1=OLD, b2=NEW, b3=NEW)
    assert await ends(witnesses) == {TP: 206}
    assert cluster.asked[-1] == (2, "ends")
    assert {broker for broker, what in cluster.asked[:-1] if what == "leaders"} >= {2, 3}


async def test_a_leader_that_leads_at_another_epoch_gives_no_ends(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    cluster.knows(b1=NEW, b2=NEW, b3=NEW)
    cluster.refuses = {2}
    with pytest.raises(NotLeaderForPartitionError):
        await ends(witnesses)


async def test_with_too_few_witnesses_there_are_no_ends(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """A worker on the deposed leader's side of a split reaches it alone."""
    cluster.knows(b1=OLD, b2=NEW, b3=NEW)
    cluster.down = {2, 3}
    with pytest.raises(NoAgreementError, match=r"membership 0 .*broker 1: leader 1, epoch 5"):
        await ends(witnesses)
    assert (1, "ends") not in cluster.asked


async def test_a_broker_that_does_not_answer_holds_nothing_up(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    cluster.knows(b1=NEW, b2=NEW, b3=NEW)
    await witnesses.agree([TP])
    cluster.answering[1].clear()
    async with asyncio.timeout(1):
        for _ in range(3):
            assert await witnesses.agree([TP]) == {TP: NEW}


async def test_without_a_known_minimum_all_replicas_must_agree(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    cluster.minimum = {}
    cluster.knows(b1=NEW, b2=NEW, b3=NEW)
    with capture_logs() as logs:
        await witnesses._minimum.read()
    assert [(entry["event"], entry["topics"]) for entry in logs] == [
        ("min.insync.replicas is hidden, so all replicas must agree on a leader",
         ["agent-config", "membership"])
    ]  # fmt: skip
    assert await witnesses.agree([TP]) == {TP: NEW}
    cluster.down = {3}
    with pytest.raises(NoAgreementError):
        await witnesses.agree([TP])


async def test_only_the_brokers_that_have_a_copy_are_asked(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    alone = leader(2, replicas=(2,))
    cluster.knows(b1=alone, b2=alone, b3=alone)
    assert await witnesses.agree([TP]) == {TP: alone}
    assert cluster.asked == [(2, "leaders")]


async def test_owners_share_a_question_that_begins_after_they_ask(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """One under way may have been answered before an owner's T0: it asks the next one."""
    cluster.knows(b1=OLD, b2=OLD, b3=OLD)
    await witnesses.agree([TP])
    cluster.asked.clear()
    for event in cluster.answering.values():
        event.clear()
    first = [asyncio.create_task(witnesses.agree([TP])) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert sorted(cluster.asked) == [(b, "leaders") for b in (1, 2, 3)]
    later = [asyncio.create_task(witnesses.agree([TP])) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert len(cluster.asked) == 3
    cluster.knows(b1=NEW, b2=NEW, b3=NEW)
    assert all(found == {TP: OLD} for found in await asyncio.gather(*first))
    assert all(found == {TP: NEW} for found in await asyncio.gather(*later))
    assert len(cluster.asked) <= 6


async def test_another_broker_at_the_address_of_a_witness_is_no_second_witness(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    cluster.knows(b1=OLD, b2=OLD, b3=NEW)
    cluster.moved = {2}
    with pytest.raises(NoAgreementError):
        await witnesses.agree([TP])


async def test_a_partition_that_has_moved_to_other_brokers_is_found_again(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    cluster.knows(b1=OLD, b2=OLD, b3=OLD)
    await witnesses.agree([TP])
    moved = leader(5, 9, (4, 5, 6))
    cluster.knows(b1=moved, b4=moved, b5=moved, b6=moved)
    cluster.down = {2, 3}
    with pytest.raises(NoAgreementError):
        await witnesses.agree([TP])
    assert await witnesses.agree([TP]) == {TP: moved}


async def test_a_partition_that_no_broker_names_has_no_leader(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    cluster.knows(b1={}, b2={})
    with pytest.raises(NoAgreementError, match="none"):
        await witnesses.agree([TP])


# owners that ask at the same moment

ONE_COPY = leader(4, replicas=(4,))


async def test_a_broker_that_does_not_answer_costs_only_its_partitions(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """Owners ask together, but none waits for a broker that only others need."""
    known = {TP: ONE_COPY, OTHER: NEW}
    cluster.knows(b1=known, b2=known, b3=known, b4=known)
    await asyncio.gather(witnesses.agree([TP]), witnesses.agree([OTHER]))
    cluster.answering[4].clear()
    waiting = asyncio.create_task(witnesses.agree([TP]))
    async with asyncio.timeout(1):
        for _ in range(3):
            assert await witnesses.agree([OTHER]) == {OTHER: NEW}
    assert not waiting.done()
    cluster.answering[4].set()
    assert await waiting == {TP: ONE_COPY}


async def test_a_partition_without_agreement_waits_for_no_broker_of_others(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """Its next probe may find the leader that is being elected."""
    known = {TP: ONE_COPY, OTHER: NEW}
    cluster.knows(b1=known, b2=known, b3=known, b4=known)
    await asyncio.gather(witnesses.agree([TP]), witnesses.agree([OTHER]))
    cluster.answering[4].clear()
    cluster.knows(b1=known | {OTHER: OLD}, b3=known | {OTHER: leader(3, 7)})
    other, slow = (asyncio.ensure_future(witnesses.agree([tp])) for tp in (OTHER, TP))
    async with asyncio.timeout(1):
        with pytest.raises(NoAgreementError, match="agent-config 0"):
            await other
    cluster.answering[4].set()
    assert await slow == {TP: ONE_COPY}


async def test_owners_share_a_question_for_the_ends(cluster: Cluster, witnesses: Witnesses) -> None:
    other = leader(3, 7)
    asked = [{TP: NEW}, {OTHER: NEW}, {TopicPartition("membership", 1): other, OTHER: NEW}]
    found = await asyncio.gather(*(witnesses.offsets(leaders, LATEST) for leaders in asked))
    assert found == [{TP: 206}, {OTHER: 206}, {TopicPartition("membership", 1): 307, OTHER: 206}]
    assert sorted(cluster.asked) == [(2, "ends"), (3, "ends")]


async def test_different_ends_and_epochs_are_different_questions(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """An owner whose leader is deposed must not get the answer to a question at the new epoch."""
    later = leader(2, 7)
    found = await asyncio.gather(
        witnesses.offsets({TP: NEW}, LATEST),
        witnesses.offsets({TP: later}, LATEST),
        witnesses.offsets({OTHER: NEW}, LATEST),
        witnesses.offsets({TP: NEW}, EARLIEST),
        witnesses.offsets({TP: NEW}, LATEST, committed=True),
    )
    assert list(found) == [{TP: 206}, {TP: 207}, {OTHER: 206}, {TP: 206}, {TP: 206}]
    assert len(cluster.asked) == 4


@pytest.mark.parametrize(
    ("fault", "error"),
    [("refuses_topics", NotLeaderForPartitionError), ("leaves_out", KafkaError)],
)
async def test_a_partition_that_its_leader_refuses_costs_only_its_owner(
    cluster: Cluster, witnesses: Witnesses, fault: str, error: type[Exception]
) -> None:
    setattr(cluster, fault, {OTHER.topic})
    refused = asyncio.create_task(witnesses.offsets({OTHER: NEW}, LATEST))
    await asyncio.sleep(0)
    assert await witnesses.offsets({TP: NEW}, LATEST) == {TP: 206}
    with pytest.raises(error):
        await refused
    assert len(cluster.asked) == 1


# disputes


async def test_a_dispute_is_reported_once_and_its_end_once(
    cluster: Cluster, witnesses: Witnesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disputes, "NORMAL_S", 0.02)
    cluster.knows(b1=OLD, b2=NEW, b3=NEW)
    with capture_logs() as logs:
        for _ in range(5):
            await witnesses.agree([TP])
            await asyncio.sleep(0.02)
        assert metrics.DISPUTED_LEADERS._value.get() == 1
        cluster.knows(b1=NEW)
        for _ in range(3):
            await witnesses.agree([TP])
            await asyncio.sleep(0.02)
    assert [entry["event"] for entry in logs] == [
        "brokers disagree about leaders", "brokers agree about leaders again"
    ]  # fmt: skip
    assert logs[0]["leader_and_epoch_by_broker"] == {1: (1, 5), 2: (2, 6), 3: (2, 6)}
    assert metrics.DISPUTED_LEADERS._value.get() == 0


async def test_a_leader_that_moves_is_no_dispute(cluster: Cluster, witnesses: Witnesses) -> None:
    cluster.knows(b1=OLD, b2=NEW, b3=NEW)
    with capture_logs() as logs:
        await witnesses.agree([TP])
        cluster.knows(b1=NEW)
        await witnesses.agree([TP])
    assert logs == []


# what clients take for leaders


class ClientCluster:
    """The metadata of one client."""

    def __init__(self, number: int) -> None:
        self.number: int | None = number
        self.updates: list[Any] = []

    def leader_for_partition(self, _tp: TopicPartition) -> int | None:
        return self.number

    def topics(self, _exclude_internal: bool) -> set[str]:
        return {TP.topic}

    def update_metadata(self, found: Any) -> None:
        self.updates.append(found)


class Client:
    def __init__(self, number: int) -> None:
        self.cluster = ClientCluster(number)


async def test_a_client_that_names_a_deposed_leader_gets_a_witness_metadata_at_once(
    cluster: Cluster, witnesses: Witnesses
) -> None:
    """By itself it would ask again after five minutes, perhaps the deposed leader."""
    wrong, right, new = Client(1), Client(2), Client(2)
    new.cluster.number = None
    for client in (wrong, right, new):
        consumer: Any = SimpleNamespace(_client=client)
        witnesses.follow(consumer)
    cluster.knows(b1=OLD, b2=NEW, b3=NEW)
    for _ in range(3):
        await witnesses.agree([TP])
        await asyncio.sleep(0.02)
    assert [len(each.cluster.updates) for each in (wrong, right, new)] == [1, 0, 0]
    assert wrong.cluster.updates[0].leaders == {TP: NEW}


async def test_the_last_answer_of_a_broker_that_has_no_copy_any_more_is_soon_forgotten(
    cluster: Cluster, witnesses: Witnesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be a dispute for ever, once the leader moves again."""
    cluster.knows(b1=OLD, b2=OLD, b3=OLD)
    await witnesses.agree([TP])
    monkeypatch.setattr("projector.kafka.witnesses.RECENT_S", 0.02)
    await asyncio.sleep(0.03)
    moved = leader(4, 9, (2, 4, 5))
    cluster.knows(b2=moved, b4=moved, b5=moved)
    del cluster.named[1]
    assert await witnesses.agree([TP]) == {TP: moved}
    assert set(witnesses._recent_answers()) <= {2, 4, 5}
    assert metrics.DISPUTED_LEADERS._value.get() == 0


# the topic of heartbeats

SOURCE = TopicPartition("sources", 0)


@pytest.mark.parametrize(("sources", "asked"), [("", 3), ("gitlab", 4)])
def test_brokers_are_asked_about_heartbeats_only_if_sources_are_named(
    sources: str, asked: int
) -> None:
    """A deployment from before has no such topic."""
    found = Witnesses(Settings(sources=sources))
    assert len(found._topics) == asked
    assert found._minimum._topics is found._topics
    assert (SOURCE.topic in found._topics) == bool(sources)


async def test_heartbeats_cost_no_further_question_to_a_broker(cluster: Cluster) -> None:
    reader = RangeReader(Settings(sources="gitlab"))
    witnesses = reader._witnesses
    use(witnesses, cluster)
    places = [*reader._partitions(0), SOURCE]
    cluster.minimum = dict.fromkeys((tp.topic for tp in places), 2)
    known = dict.fromkeys(places, NEW)
    cluster.knows(b1=known, b2=known, b3=known)
    await witnesses._minimum.read()
    await reader.leaders(0)
    cluster.asked.clear()
    leaders, source = await asyncio.gather(reader.leaders(0), reader.source_leader())
    assert source == NEW
    assert sorted(cluster.asked) == [(1, "leaders"), (2, "leaders"), (3, "leaders")]
    cluster.asked.clear()
    assert await reader.ends_with_source(0, leaders, source) == (dict.fromkeys(Topic, 206), 206)
    assert cluster.asked == [(2, "ends")]
    await reader.stop()


async def test_the_end_of_the_heartbeats_needs_witnesses_too(cluster: Cluster) -> None:
    reader = RangeReader(Settings(sources="gitlab"))
    witnesses = reader._witnesses
    use(witnesses, cluster)
    cluster.minimum = {"sources": 2}
    await witnesses._minimum.read()
    cluster.knows(b1={SOURCE: OLD}, b2={SOURCE: NEW}, b3={SOURCE: OLD})
    cluster.down = {3}
    with pytest.raises(NoAgreementError, match="too few replicas of sources 0"):
        await reader.source_leader()
    cluster.down = set()
    cluster.knows(b3={SOURCE: NEW})
    assert await reader.source_leader() == NEW
    assert await reader.source_end(NEW) == 206
    await reader.stop()
