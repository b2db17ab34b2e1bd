"""Connections to brokers: none waits for another one, and a broker that moves is found again."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from projector.config.settings import Settings
from projector.kafka import broker_connections
from projector.kafka.broker_connections import BrokerConnections
from projector.kafka.broker_protocol import Address

FIRST, SECOND, MOVED = Address("kafka", 1), Address("kafka", 2), Address("kafka", 9)


class Connection:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.is_open = True

    def connected(self) -> bool:
        return self.is_open

    def close(self, reason: Any = None) -> None:
        self.is_open = False


class Network:
    """Opens connections, except to addresses that refuse or are silent."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.refuses: set[Address] = set()
        self.silent: set[Address] = set()

    async def create_conn(self, host: str, port: int, **_: object) -> Connection:
        address = Address(host, port)
        if address in self.refuses:
            raise ConnectionRefusedError(f"{host}:{port}")
        if address in self.silent:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self.opened.append(Connection(address))
        return self.opened[-1]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    found = Network()
    monkeypatch.setattr(broker_connections, "create_conn", found.create_conn)
    return found


@pytest.fixture
async def brokers(network: Network) -> Any:
    found = BrokerConnections(Settings(kafka="kafka:1, kafka:2"), request_timeout_ms=100)
    found.learn({1: FIRST, 2: SECOND})
    yield found
    await found.close()


async def place(connection: Any) -> Address:
    return connection.address  # type: ignore[no-any-return]


async def test_questions_share_one_connection_to_their_broker(
    network: Network, brokers: BrokerConnections
) -> None:
    places = await asyncio.gather(*(brokers.ask(number, place) for number in (1, 2, 1, 2)))
    assert places == [FIRST, SECOND, FIRST, SECOND]
    assert len(network.opened) == 2


async def test_a_silent_broker_holds_no_other_up(
    network: Network, brokers: BrokerConnections
) -> None:
    network.silent = {FIRST}
    waiting = asyncio.create_task(brokers.ask(1, place))
    async with asyncio.timeout(1):
        assert await brokers.ask(2, place) == SECOND
        assert await brokers.ask_any(place) == SECOND
    waiting.cancel()


async def test_a_question_that_is_given_up_leaves_the_connection_to_the_others(
    network: Network, brokers: BrokerConnections
) -> None:
    given_up = asyncio.create_task(brokers.ask(1, place))
    other = asyncio.create_task(brokers.ask(1, place))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await other == FIRST
    assert len(network.opened) == 1


async def test_a_connection_that_was_lost_is_opened_again(
    network: Network, brokers: BrokerConnections
) -> None:
    await brokers.ask(1, place)
    network.opened[0].is_open = False
    assert await brokers.ask(1, place) == FIRST
    assert len(network.opened) == 2


async def test_a_broker_that_does_not_answer_a_question_gets_a_new_connection(
    network: Network, brokers: BrokerConnections
) -> None:
    """Its answers come in order: the next one would wait behind this one."""

    async def unanswered(_connection: Any) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await brokers.ask(1, unanswered)
    assert not network.opened[0].is_open


async def test_the_address_of_a_broker_that_has_moved_is_learned_once_the_old_one_fails(
    network: Network, brokers: BrokerConnections
) -> None:
    """A deposed leader may name the old address all the time."""
    brokers.learn({1: MOVED})
    assert await brokers.ask(1, place) == FIRST
    network.opened[0].is_open = False
    network.refuses = {FIRST}
    with pytest.raises(ConnectionRefusedError):
        await brokers.ask(1, place)
    brokers.learn({1: MOVED})
    assert await brokers.ask(1, place) == MOVED


@pytest.mark.parametrize(
    ("named", "is_there"),
    [
        ({1: FIRST, 2: SECOND}, True),
        ({1: MOVED, 2: SECOND}, False),
        ({1: MOVED, 2: FIRST}, False),
        ({1: FIRST, 2: FIRST}, False),
        ({2: SECOND}, False),
    ],
)
async def test_a_broker_is_known_by_its_own_address(
    brokers: BrokerConnections, named: dict[int, Address], is_there: bool
) -> None:
    """An address may go to another broker, whose word would count twice."""
    assert brokers.is_at_its_address(1, named) is is_there
    brokers.learn({1: MOVED})
    assert await brokers.ask(1, place) == (FIRST if is_there else MOVED)


async def test_without_any_broker_the_error_names_their_addresses(
    network: Network, brokers: BrokerConnections
) -> None:
    network.refuses = {FIRST, SECOND}
    with pytest.raises(KafkaConnectionError, match="kafka:1, kafka:2"):
        await brokers.ask_any(place)
    with pytest.raises(KafkaConnectionError, match="broker 7 is not known"):
        await brokers.ask(7, place)


async def test_a_connection_that_is_still_being_opened_ends_with_the_others(
    network: Network, brokers: BrokerConnections
) -> None:
    await brokers.ask(2, place)
    network.silent = {FIRST}
    waiting = asyncio.create_task(brokers.ask(1, place))
    await asyncio.sleep(0)
    await brokers.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not network.opened[0].is_open
