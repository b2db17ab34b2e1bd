"""Three Apache Kafka brokers and a controller, each broker behind proxies that can be frozen."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest

from projector.kafka.broker_protocol import Leaders, ask_leaders
from projector.ports import is_listening
from tests.faults.background_loop import BackgroundLoop
from tests.faults.proxy import Proxy
from tests.integration.ports import free_port
from tests.integration.servers import Server, apache_kafka, eventually, running

# Node 1 is the controller.
NUMBERS: Final = (2, 3, 4)
LISTENERS: Final = "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT"
# The controller takes the partitions of a silent broker away after two seconds.
SESSION: Final = ("broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=300")
# Each partition is led by the first of its replicas again within a second.
PREFERRED: Final = (
    "auto.leader.rebalance.enable=true", "leader.imbalance.check.interval.seconds=1",
    "leader.imbalance.per.broker.percentage=0",
)  # fmt: skip
TIMEOUT_S: Final = 10

T = TypeVar("T")


class Broker(NamedTuple):
    """One broker with its ports for clients, and the proxies on each of its ways."""

    server: Server
    port: int
    proxied_port: int
    from_workers: Proxy
    from_brokers: Proxy
    to_controller: Proxy


class Brokers:
    """The brokers by number; traffic always reaches all of them."""

    def __init__(self, folder: Path, network: BackgroundLoop, stack: ExitStack) -> None:
        self._network = network
        self._stack = stack
        controller = free_port()
        (folder / "controller").mkdir()
        stack.enter_context(
            running(
                apache_kafka(folder / "controller", controller, 0, "control", *PREFERRED, *SESSION)
            )
        )
        self.all = {number: self._start(folder, number, controller) for number in NUMBERS}
        eventually(lambda: all(map(self._is_whole, NUMBERS)), "three brokers that know each other")

    @property
    def address(self) -> str:
        """The addresses of all brokers."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.all.values())

    @property
    def proxied(self) -> str:
        """The addresses of all brokers through the workers' proxies."""
        return ",".join(f"127.0.0.1:{broker.proxied_port}" for broker in self.all.values())

    def others(self, number: int) -> str:
        """Return the addresses of all brokers but one."""
        return ",".join(f"127.0.0.1:{b.port}" for n, b in self.all.items() if n != number)

    def cut_off(self, number: int) -> None:
        """Cut a broker off from the controller and from the brokers that follow it."""
        self.all[number].to_controller.freeze()
        self.all[number].from_brokers.freeze()

    def mend(self) -> None:
        """Make every broker run, reach all others, and be reached."""
        for broker in self.all.values():
            for proxy in (broker.from_workers, broker.from_brokers, broker.to_controller):
                proxy.thaw()
            if broker.server.process.poll() is not None:
                broker.server.start()

    def roll(self, number: int) -> None:
        """Stop a broker as an update does, and start it again."""
        self.all[number].server.stop()
        self.all[number].server.start()
        eventually(lambda: self._is_whole(number), f"broker {number} back: {self._log(number)}")

    def leaders(self, number: int, topics: list[str]) -> Leaders:
        """Ask one broker for the leaders that it knows."""
        return self._ask(number, lambda connection: ask_leaders(connection, topics)).leaders

    def put_first(self, number: int, leaders: Leaders) -> None:
        """Make a broker the preferred leader of these partitions."""
        topics: dict[str, list[tuple[int, list[int], dict[int, bytes]]]] = {}
        for tp, leader in leaders.items():
            order = [number, *sorted(leader.replicas - {number})]
            topics.setdefault(tp.topic, []).append((tp.partition, order, {}))
        request = AlterPartitionReassignmentsRequest(
            TIMEOUT_S * 1000, [(topic, found, {}) for topic, found in topics.items()], {}
        )

        async def send(connection: AIOKafkaConnection) -> int:
            return (await connection.send(request)).error_code  # type: ignore[no-any-return]

        assert self._ask(number, send) == 0

    def lead(self, number: int, leaders: Leaders) -> bool:
        """Whether all brokers name this one as the leader of the partitions."""
        topics = sorted({tp.topic for tp in leaders})
        named = [self.leaders(each, topics) for each in NUMBERS]
        return all(found[tp].leader == number for found in named for tp in leaders)

    def _start(self, folder: Path, number: int, controller: int) -> Broker:
        port, proxied, inner, workers, brokers, to_controller = (free_port() for _ in range(6))
        place = folder / f"broker-{number}"
        place.mkdir()
        server = apache_kafka(
            place, port, to_controller, "join", f"node.id={number}",
            f"listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxied},"
            f"INNER://127.0.0.1:{inner}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},"
            f"PROXIED://127.0.0.1:{workers},INNER://127.0.0.1:{brokers}",
            f"listener.security.protocol.map={LISTENERS}", "inter.broker.listener.name=INNER",
            "offsets.topic.replication.factor=3", *SESSION,
        )  # fmt: skip
        self._stack.enter_context(running(server))
        return Broker(
            server, port, workers, self._proxy(workers, proxied), self._proxy(brokers, inner),
            self._proxy(to_controller, controller),
        )  # fmt: skip

    def _proxy(self, port: int, target: int) -> Proxy:
        proxy = Proxy(self._network, port, target)
        self._stack.callback(proxy.close)
        return proxy

    def _is_whole(self, number: int) -> bool:
        """Whether the broker answers, and knows all of them."""
        if not is_listening(self.all[number].port):
            return False
        try:
            answer = self._ask(number, lambda connection: ask_leaders(connection, []))
        except (KafkaError, OSError, TimeoutError):
            return False
        return answer.addresses.keys() == set(NUMBERS)

    def _ask(self, number: int, question: Callable[[AIOKafkaConnection], Awaitable[T]]) -> T:
        async def ask() -> T:
            connection = await create_conn("127.0.0.1", self.all[number].port)
            try:
                return await question(connection)
            finally:
                connection.close()

        return asyncio.run(asyncio.wait_for(ask(), TIMEOUT_S))

    def _log(self, number: int) -> str:
        return self.all[number].server.log()[-2000:]


def led_by(number: int, leaders: Leaders) -> list[TopicPartition]:
    """Return the partitions that the broker leads."""
    return [tp for tp, leader in leaders.items() if leader.leader == number]
