"""Producers on other teams' clients, each written by docs/events.md alone, feed the product.

Each feeds a small company of its own, and the product answers by it: first with the agents, then,
after the revocations, without.
"""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pytest
from aiokafka import AIOKafkaProducer

from projector.events.model import KafkaRecord
from projector.events.partitioning import partition_of
from projector.ports import is_listening
from tests import builders, recordings
from tests.absence import skip_test
from tests.integration import servers
from tests.integration.conftest import BROKERS, apache_or_skip, prefixes
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.ports import free_port
from tests.integration.servers import REPOSITORY, eventually

FOLDER = REPOSITORY / "tests" / "integration" / "producers"
SCRIPT = REPOSITORY / "scripts" / "producers"


# Each producer's client, as `scripts/producers` names it, and its command.
PYTHON = "{clients}/{client}/bin/python {folder}"
SDK = f"{PYTHON}/with_cloudevents_sdk.py {{kafka}} {{prefix}}"
PRODUCERS = {
    "kafka-python": ("python-1", f"{PYTHON}/with_kafka_python.py {{kafka}} {{prefix}}"),
    "librdkafka": ("python-1", f"{PYTHON}/with_librdkafka.py {{kafka}} {{prefix}}"),
    "kafkajs": ("kafkajs", "node {clients}/kafkajs/feed.mjs {kafka} {prefix}"),
    "franz-go": ("franz-go", "{clients}/franz-go {kafka} {prefix}"),
    "sdk 1 binary": ("python-1", f"{SDK} kafka-binary"),
    "sdk 1 structured": ("python-1", f"{SDK} kafka-structured"),
    "sdk 2 of 1 binary": ("python-2", f"{SDK} v1.kafka-binary"),
    "sdk 2 of 1 structured": ("python-2", f"{SDK} v1.kafka-structured"),
    "sdk 2 binary": ("python-2", f"{SDK} core-binary"),
    "sdk 2 structured": ("python-2", f"{SDK} core-structured"),
}


class Company(NamedTuple):
    """A root namespace with a project, a member, three agents and a job; the ids follow `root`."""

    root: int

    @property
    def token(self) -> str:
        return f"token-{self.root}"

    @property
    def agents(self) -> set[int]:
        return {self.root + 3, self.root + 4, self.root + 5}

    def events(self) -> list[dict[str, Any]]:
        root, project, user, own, shared, elsewhere = range(self.root, self.root + 6)
        grants = [{"id": f"company-{root}/shop"}]
        return [
            builders.group(root, path=f"company-{root}", root=str(root)),
            builders.project(project, root, path=f"company-{root}/shop", root=str(root)),
            builders.user(user, root=str(root)),
            builders.member(user, group_id=root, root=str(root)),
            builders.agent(own, project, root=str(root)),
            builders.configured(own, projects=grants, root=str(root)),
            builders.shared(shared, project, root=str(root)),
            builders.shared_agent(elsewhere, 9, groups=[{"id": root}], root=str(root)),
            builders.started(root, project, user, token=self.token, root=str(root)),
        ]

    def revocations(self) -> list[dict[str, Any]]:
        own, shared, elsewhere = sorted(self.agents)
        return [
            builders.removed("agent", own, root=str(self.root)),
            builders.removed("instance-agent", shared, root=str(self.root)),
            builders.removed("shared-agent", elsewhere, root=str(self.root)),
        ]

    def end(self) -> list[dict[str, Any]]:
        return [builders.removed("job", self.root, root=str(self.root))]


def companies() -> list[Company]:
    """Return a company for each producer, in a partition where librdkafka's default is wrong."""
    roots = range(1000, 2000, 10)
    wrong = [crc32(str(root).encode()) % PARTITIONS for root in roots]
    pairs = zip(roots, wrong, strict=True)
    return [Company(r) for r, other in pairs if partition_of(str(r), PARTITIONS) != other]


@cache
def clients() -> Path:
    """Return the folder with the clients, which `make producers` has fetched."""
    done = subprocess.run([SCRIPT, "path"], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


@pytest.fixture(params=PRODUCERS)
def producer(request: pytest.FixtureRequest) -> str:
    """Return the name of a producer; skip without its client."""
    name: str = request.param
    client, _ = PRODUCERS[name]
    if not (clients() / f"{client}.complete").exists():
        reason = f"NO TEST RUNS THE PRODUCER {name}: no {client}; run `make producers`"
        skip_test(reason)
    return name


@pytest.fixture(scope="module", params=list(BROKERS))
def product(
    request: pytest.FixtureRequest,
    address_of: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """Yield one deployment for all producers; at the end, none of their events was refused."""
    apache_or_skip(request.param)
    kafka, port = address_of(request.param), free_port()
    folder = tmp_path_factory.mktemp("producers")
    with servers.running(servers.valkey(folder, port)):
        eventually(lambda: is_listening(port), "Valkey listening")
        with Deployment(kafka, port, f"test-{next(prefixes)}.", folder) as product:
            product.start_all()
            yield product
            product.produce(builders.group(3, id="later") | {"data": {}})
            assert b'"later"' in (product.dead_letters(1)[0].value or b"")


def feed(product: Deployment, producer: str, events: list[dict[str, Any]]) -> None:
    client, template = PRODUCERS[producer]
    places = {"clients": clients(), "client": client, "folder": FOLDER}
    command = [
        part.format(kafka=product.kafka, prefix=product.prefix, **places)
        for part in template.split()
    ]
    done = subprocess.run(
        command, input="\n".join(map(json.dumps, events)), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def agents_of(product: Deployment, company: Company) -> set[int] | None:
    """Return which of the company's agents its job may use; None unless the answer is a 200.

    Other companies share agents with all.
    """
    found = product.agents(company.token)
    return None if found is None else company.agents & set(found)


def test_what_a_producer_feeds_is_answered(product: Deployment, producer: str) -> None:
    company = companies()[list(PRODUCERS).index(producer)]
    feed(product, producer, company.events())
    eventually(lambda: agents_of(product, company) == company.agents, "all agents", 30)
    for partition in range(PARTITIONS):
        for broadcast in (f"*/user/{company.root + 2}", f"*/instance-agent/{company.root + 4}"):
            facts = f"allowed-agents:facts:{{{partition}}}"
            eventually(
                partial(product.redis.hexists, facts, broadcast), f"{broadcast} in {facts}", 30
            )
    feed(product, producer, company.revocations())
    eventually(lambda: agents_of(product, company) == set(), "no agent", 30)
    feed(product, producer, company.end())
    assert product.until(company.token, 401).status == 401


def test_a_record_of_debeziums_outbox_router_takes_an_agent_away(product: Deployment) -> None:
    """The record that docs/recipes.md led to, sent as it was recorded."""
    product.feed(*recordings.company())
    eventually(lambda: recordings.AGENT in (product.agents("recorded") or []), "the agent", 30)
    (removal,) = (r for r in recordings.recording("debezium").records if r.key == b"1500")
    asyncio.run(send(product, removal))
    eventually(lambda: recordings.AGENT not in (product.agents("recorded") or ()), "no agent", 30)
    assert product.look_up("recorded").status == 200


async def send(product: Deployment, record: KafkaRecord) -> None:
    """Send a record to the partition that its key chooses."""
    async with AIOKafkaProducer(bootstrap_servers=product.kafka, acks="all") as producer:
        await producer.send_and_wait(
            product.prefix + record.topic, record.value, record.key, headers=list(record.headers)
        )
