"""Arguments of clients of Kafka, and consumers without a group."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from projector.clients import kafka
from projector.config.settings import Settings
from tests.unit.config.environment import SASL, SECRET, TLS, load


def test_without_settings_kafka_is_reached_in_the_clear_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kafka.client_arguments(load(monkeypatch, {"KAFKA": "a:1,b:2"})) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "PLAINTEXT",
        "ssl_context": None,
    }


def test_kafka_is_told_user_and_password_and_its_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    how = kafka.client_arguments(load(monkeypatch, SASL | {"KAFKA_CA_FILE": pems["ca"]}))
    assert how["security_protocol"] == "SASL_SSL"
    assert how["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (how["sasl_plain_username"], how["sasl_plain_password"]) == ("u", SECRET)
    tls = how["ssl_context"]
    assert tls.check_hostname
    assert tls.verify_mode.name == "CERT_REQUIRED"
    assert len(tls.get_ca_certs()) == 1, "the CA file's alone is trusted"


def test_without_a_ca_file_the_systems_authorities_are_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = kafka.client_arguments(load(monkeypatch, TLS))["ssl_context"]
    assert tls.check_hostname
    assert tls.cert_store_stats()["x509_ca"] != 1


class Consumer:
    """Takes the place of aiokafka's; `error` is raised by its start.

    With `cancelled_fetch` it has a fetch under way when it is stopped.
    """

    error: Exception | None = None
    cancelled_fetch = False

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")
        if self.error:
            raise self.error
        asyncio.get_running_loop().call_soon(self.calls.append, "tasks have begun")

    async def stop(self) -> None:
        self.calls.append("stop")
        if self.cancelled_fetch:
            raise asyncio.CancelledError

    @property
    def _client(self) -> "Consumer":
        return self

    async def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch) -> list[Consumer]:
    created: list[Consumer] = []

    def create(**arguments: Any) -> Consumer:
        created.append(Consumer(**arguments))
        return created[-1]

    monkeypatch.setattr(kafka, "AIOKafkaConsumer", create)
    return created


async def test_a_consumer_without_a_group_moves_no_offsets(consumers: list[Consumer]) -> None:
    """With a group, or with commits, it would take offsets and partitions from the workers."""
    settings = Settings(kafka="k:1", topic_prefix="x.")
    async with kafka.open_consumer(
        settings, "status", request_timeout_ms=7, fetch_max_wait_ms=5
    ) as consumer:
        assert consumer.arguments == kafka.client_arguments(settings) | {
            "client_id": "x.projector-status", "group_id": None, "enable_auto_commit": False,
            "auto_offset_reset": "none", "request_timeout_ms": 7, "fetch_max_wait_ms": 5,
            "isolation_level": "read_committed",
        }  # fmt: skip
        assert consumers == [consumer]


async def test_a_consumer_is_stopped_only_after_its_tasks_have_begun(
    consumers: list[Consumer],
) -> None:
    """Or aiokafka raises their cancellation."""
    async with kafka.open_consumer(Settings(), "status", request_timeout_ms=7):
        pass
    assert consumers[0].calls == ["start", "tasks have begun", "stop"]


async def test_a_consumer_that_cannot_connect_is_stopped_too(
    consumers: list[Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Consumer, "error", KafkaConnectionError("no broker"))
    with pytest.raises(KafkaConnectionError):
        async with kafka.open_consumer(Settings(), "status", request_timeout_ms=7):
            pytest.fail("connected")
    assert consumers[0].calls == ["start", "stop"]


async def test_a_client_that_cannot_connect_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Consumer, "error", KafkaConnectionError("no broker"))
    client = Consumer()
    with pytest.raises(KafkaConnectionError):
        await kafka.started(client)
    assert client.calls == ["start", "stop"]


async def test_a_fetch_that_is_cancelled_by_the_end_of_its_consumer_cancels_nothing_else(
    consumers: list[Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka raises its cancellation: the caller's task would end, and nothing would say so."""
    monkeypatch.setattr(Consumer, "cancelled_fetch", True)

    async def read() -> str:
        async with kafka.open_consumer(Settings(), "status", request_timeout_ms=7):
            raise KafkaConnectionError("no broker")

    reading = asyncio.create_task(read())
    await asyncio.wait({reading})
    assert not reading.cancelled()
    assert isinstance(reading.exception(), KafkaConnectionError)
    assert consumers[0].calls[-2:] == ["stop", "close"], "no connection is left open"


async def test_who_is_cancelled_while_a_consumer_stops_is_cancelled(
    consumers: list[Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_consumer: Consumer) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Consumer, "stop", hang)
    consumer: Any = Consumer()
    stopping = asyncio.create_task(kafka.stop_consumer(consumer))
    await asyncio.sleep(0.01)
    stopping.cancel()
    await asyncio.wait({stopping}, timeout=5)
    assert stopping.cancelled()
