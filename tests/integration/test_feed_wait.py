"""`projector feed --wait`: a lookup behind its end has what was sent, each time."""

import asyncio
import io
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

from projector.clients import redis_client
from projector.config.settings import Settings
from projector.events.partitioning import partition_of
from projector.feed import producer
from projector.feed.applied import wait_until_applied
from projector.store import schema
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment

ROUNDS: Final = 100
# More than an owner writes at once: the checkpoint comes behind several portions.
JOBS: Final = 4500
# Seconds: bounds a test that hangs.
PATIENCE_S: Final = 60
WAIT: Final = ("--wait", str(PATIENCE_S))
GRANTED: Final = builders.configured(5, groups=[{"id": 3}])
REVOKED: Final = builders.configured(5, groups=[])
COMPANY: Final[list[dict[str, Any]]] = [
    builders.group(3), builders.project(7, 3), builders.project(8, 3),
    builders.member(1, group_id=3), builders.agent(5, 8),
]  # fmt: skip

Feed = Callable[..., Coroutine[Any, Any, None]]


def lines_of(*events: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, events))


def feed(deployment: Deployment, *events: dict[str, Any]) -> None:
    done = deployment.command("feed", "-", *WAIT, stdin=lines_of(*events))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("answers contain them\n")


def test_a_lookup_at_once_has_the_event_each_time(deployment: Deployment) -> None:
    """A grant, a revocation, a job's start and its end, as the command sends and waits."""
    deployment.start_all()
    feed(deployment, *COMPANY, builders.started(9, 7))
    settings = Settings(
        kafka=deployment.kafka, topic_prefix=deployment.prefix, redis_url=deployment.redis_url
    )

    async def rounds() -> None:
        async with redis_client.create_redis(settings) as redis:

            async def feed(*events: dict[str, Any]) -> None:
                source = io.BytesIO(lines_of(*events).encode())
                positions = await producer.send_events(source, settings, lambda: None)
                assert await wait_until_applied(redis, positions, {}, PATIENCE_S)

            for number in range(ROUNDS):
                await one_round(deployment, feed, 1000 + number)

    asyncio.run(rounds())


async def one_round(deployment: Deployment, feed: Feed, job: int) -> None:
    token = f"token-{job}"
    await feed(GRANTED, builders.started(job, 7))
    assert (deployment.agents("token-9"), deployment.agents(token)) == ([5], [5])
    await feed(REVOKED, builders.removed("job", job))
    assert deployment.agents("token-9") == []
    assert deployment.look_up(token).status == 401


def test_every_answer_of_a_large_revocation_lacks_the_agent(deployment: Deployment) -> None:
    deployment.start_all()
    jobs = range(1, JOBS + 1)
    feed(deployment, *COMPANY, GRANTED, *(builders.started(job, 7) for job in jobs))
    assert bodies_with_agents(deployment, *jobs) == JOBS
    feed(deployment, REVOKED)
    assert bodies_with_agents(deployment, *jobs) == 0
    assert deployment.agents(f"token-{JOBS}") == []


def bodies_with_agents(deployment: Deployment, *jobs: int) -> int:
    """Count the records of these jobs that list an agent."""
    keys = [schema.record_key(builders.digest(f"token-{job}")) for job in jobs]
    return sum(b'"config_project"' in record for record in deployment.redis.mget(keys))


def test_time_runs_out_without_a_worker(deployment: Deployment) -> None:
    """The owner that is killed is named once it has been silent; the next one applies all."""
    worker = deployment.start_all()
    feed(deployment, *COMPANY, GRANTED, builders.started(9, 7))
    worker.kill()
    late = deployment.command("feed", "-", "--wait", "3", stdin=lines_of(REVOKED))
    assert (late.returncode, late.stdout) == (1, "1 event acknowledged by Kafka\n")
    silent, last = late.stderr.splitlines()
    assert " has not stamped partition 3 for " in silent
    assert last.startswith("answers lack some of the events after 3 s; Kafka has all of them")
    deployment.start("worker")
    feed(deployment, builders.user(1))
    assert bodies_with_agents(deployment, 9) == 0
    # Lookups get 503 until the next owner's first stamp.
    deployment.until_agents("token-9")


def test_the_wait_goes_on_through_an_empty_redis_and_a_rebuild(deployment: Deployment) -> None:
    deployment.start_all()
    feed(deployment, *COMPANY, GRANTED, builders.started(9, 7))

    def empty() -> None:
        deployment.redis.flushall()

    def rebuild() -> None:
        partition = str(partition_of("3", PARTITIONS))
        assert deployment.command("rebuild", "--partition", partition).returncode == 0

    for damage, event, expected in (empty, REVOKED, 0), (rebuild, GRANTED, 1), (empty, REVOKED, 0):
        damage()
        feed(deployment, event)
        # Not by a lookup, which may get 503 until the next stamp.
        assert bodies_with_agents(deployment, 9) == expected
