"""Partitions without a leader, while one of two brokers is down; all others stay fresh."""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from projector.events.model import DEAD_LETTERS, Topic
from projector.events.partitioning import partition_of
from projector.kafka.topic_configs import CONFIGS
from projector.ports import is_listening
from tests import builders
from tests.integration import servers
from tests.integration.conftest import apache_or_skip
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually, running

# The partitions of each node; neither node has a replica of the other's.
PARTITIONS_OF: Final = {1: [0, 1], 2: [2, 3]}
STAYS, LEAVES = 1, 2


class TwoBrokers(NamedTuple):
    deployment: Deployment
    second: Server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TwoBrokers]:
    """Start two brokers without replication, and Redis."""
    apache_or_skip("apache")
    ports, controller, redis = [free_port(), free_port()], free_port(), free_port()
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        stack.enter_context(running(servers.valkey(tmp_path, redis)))
        first = servers.apache_kafka(folders[0], ports[0], controller)
        stack.enter_context(running(first))
        second = servers.apache_kafka(folders[1], ports[1], controller, "join")
        stack.enter_context(running(second))
        eventually(lambda: all(map(is_listening, (*ports, redis))), "every server listening")
        brokers = ",".join(f"127.0.0.1:{port}" for port in ports)
        deployment = Deployment(brokers, redis, "", tmp_path)
        with deployment:
            yield TwoBrokers(deployment, second)


def wait_for_both(deployment: Deployment) -> None:
    async def count(admin: AIOKafkaAdminClient) -> None:
        assert len((await admin.describe_cluster())["brokers"]) == len(PARTITIONS_OF)

    def both() -> bool:
        try:
            deployment.administrate(count)
        except (AssertionError, KafkaError):
            return False
        return True

    eventually(both, "both brokers in one cluster")


def create_topics(deployment: Deployment, elsewhere: int) -> None:
    """Create the topics, with group coordinator and dead letters on node `elsewhere`."""
    apart = {p: [node] for node, partitions in PARTITIONS_OF.items() for p in partitions}
    topics_of: dict[str, tuple[dict[int, list[int]], dict[str, str]]] = {
        **{topic: (apart, CONFIGS[topic]) for topic in Topic},
        DEAD_LETTERS: ({0: [elsewhere]}, CONFIGS[DEAD_LETTERS]),
        # The number that scripts/kafka sets.
        "__consumer_offsets": ({p: [elsewhere] for p in range(4)}, {"cleanup.policy": "compact"}),
    }
    topics = [
        NewTopic(name, -1, -1, replicas, topic_configs=configs)
        for name, (replicas, configs) in topics_of.items()
    ]

    async def create(admin: AIOKafkaAdminClient) -> None:
        response = await admin.create_topics(topics)
        assert [code for _, code, *_ in response.topic_errors] == [0] * len(topics)

    deployment.administrate(create)


def root_on(node: int) -> str:
    """Choose a root namespace whose events this node has."""
    numbers = map(str, itertools.count(3))
    return next(n for n in numbers if partition_of(n, PARTITIONS) in PARTITIONS_OF[node])


def start_job(deployment: Deployment, job: int, root: str) -> None:
    group = builders.group(int(root), root=root)
    project = builders.project(100 + job, int(root), root=root)
    deployment.feed(group, project, builders.started(job, 100 + job, root=root))
    deployment.until(f"token-{job}", 200)


def is_named(deployment: Deployment) -> bool:
    """Whether the status blames the lack of a leader, and still has the lag of all others."""
    found = json.loads(deployment.command("status", "--json").stdout)
    blamed = [c["partitions"] for c in found["causes"] if c["name"] == "partition-leaderless"]
    known = [p["partition"] for p in found["partitions"] if p["lag"] is not None]
    return blamed == [PARTITIONS_OF[LEAVES]] and known == PARTITIONS_OF[STAYS]


@pytest.mark.parametrize(
    "elsewhere", [STAYS, LEAVES], ids=["partitions leave", "coordinator and letters leave too"]
)
def test_partitions_with_a_leader_stay_fresh(cluster: TwoBrokers, elsewhere: int) -> None:
    deployment = cluster.deployment
    wait_for_both(deployment)
    create_topics(deployment, elsewhere)
    worker = deployment.start_all()
    here, there = root_on(STAYS), root_on(LEAVES)
    for job in (9, 11, 12):
        start_job(deployment, job, here)
    start_job(deployment, 10, there)

    cluster.second.kill()
    deployment.produce(b"not JSON", "membership", PARTITIONS_OF[STAYS][0])
    eventually(lambda: deployment.look_up("token-10").status == 503, "no leader, no answer")
    assert deployment.look_up("token-9").status == 200
    eventually(lambda: is_named(deployment), "the status names the topics without a leader")
    deployment.feed(builders.removed("job", 11, root=here))
    deployment.until("token-11", 401, "a change applied while other partitions have no leader")
    if elsewhere == STAYS:
        # With a coordinator, a new worker gets partitions while the other broker is down.
        worker.kill()
        worker = deployment.start("worker")
    deployment.feed(builders.removed("job", 12, root=here))
    deployment.until("token-12", 401, "the same, by the new worker if there is one")
    assert deployment.look_up("token-9").status == 200
    assert deployment.look_up("token-10").status == 503
    assert deployment.get("/health/fresh").status == 503
    assert deployment.get("/health/ready").status == 200, "a load balancer keeps this API"

    cluster.second.start()
    deployment.until_fresh()
    deployment.until("token-10", 200)
    for job, root in ((9, here), (10, there)):
        deployment.feed(builders.removed("job", job, root=root))
        deployment.until(f"token-{job}", 401)
    letters = deployment.dead_letters(1)
    assert {letter.value for letter in letters} == {b"not JSON"}
    assert worker.process.poll() is None
