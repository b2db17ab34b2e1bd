"""The product on a Redis Cluster: restarts, failovers and moved slots."""

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from api.redis_mget import create_reads
from projector.clients import redis_batch, redis_client, redis_servers
from projector.clients.redis_access import warn_of_open_server
from projector.clients.redis_servers import RedisServers
from projector.config.settings import Settings
from projector.errors import EvictionError
from projector.events.partitioning import partition_of
from projector.store import schema
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.ports import free_port
from tests.integration.redis_servers import RedisCluster, client, running_valkey
from tests.integration.servers import eventually
from tests.integration.test_end_to_end import COMPANY
from tests.integration.test_redis_users import FOLDER, credentials

# These tests are about Redis: one kind of broker is enough.
pytestmark = pytest.mark.parametrize("kafka", ["embedded"], indirect=True)
ROOT_PARTITION = partition_of("3", PARTITIONS)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[RedisCluster]:
    with ExitStack() as stack:
        yield RedisCluster(tmp_path, stack)


@pytest.fixture
def deployment(kafka: str, three: RedisCluster, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(kafka, three.ports[0], f"cluster{three.ports[0]}.", tmp_path) as deployment:
        deployment.use_redis(three.url)
        yield deployment


def connected(three: RedisCluster) -> tuple[Redis, RedisServers]:
    server = RedisServers()
    return redis_client.create_redis(Settings(redis_url=three.url), server), server


def started(job: int, token: str) -> dict[str, Any]:
    return builders.started(job, 123213, token=token)


def test_everything_works_as_on_one_server(three: RedisCluster, deployment: Deployment) -> None:
    deployment.start_all()
    tokens = {job: f"token-{job}" for job in range(20, 50)}
    deployment.feed(*COMPANY)
    deployment.feed(*(started(job, token) for job, token in tokens.items()))
    for token in tokens.values():
        deployment.until_agents(token, 5)
    deployment.until("unknown", 401)
    holders = {three.holder(schema.record_key(builders.digest(token))) for token in tokens.values()}
    assert holders == {0, 1, 2}, "every server has tokens"
    deployment.feed(builders.removed("agent", 5))
    for token in tokens.values():
        deployment.until_agents(token)
    for words in ("status", "explain 20", "inspect partition 0", "inspect token", "verify"):
        done = deployment.command(*words.split(), stdin="token-20\n")
        assert done.returncode == 0, f"{words}: {done.stderr}"
    assert "30 tokens compared (30 live): 0 differ" in done.stdout


def test_what_was_lost_or_is_nobodys_is_found_and_repaired(
    three: RedisCluster, deployment: Deployment
) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY, *(started(job, f"token-{job}") for job in range(20, 30)))
    for job in range(20, 30):
        deployment.until_agents(f"token-{job}", 5)
    assert worker.stop() == 0
    for job in range(20, 30):
        key = schema.record_key(builders.digest(f"token-{job}"))
        assert client(three.ports[three.holder(key)]).delete(key) == 1
    assert "10 tokens compared (10 live): 10 differ" in deployment.command("verify").stdout
    repaired = deployment.command("verify", "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert "10 repaired" in repaired.stdout
    worker.start()
    deployment.until_agents("token-20", 5)
    rebuilt = deployment.command("rebuild", "--partition", str(ROOT_PARTITION))
    assert rebuilt.returncode == 0, rebuilt.stderr
    deployment.until_agents("token-20", 5)


def test_a_server_that_comes_back_empty_is_filled_and_nobody_is_told_401(
    three: RedisCluster, deployment: Deployment
) -> None:
    """Its tokens are lost, but the partition's stamp is on another server."""
    token = elsewhere(three)
    lost = three.servers[holder(three, token)]
    deployment.start_all()
    deployment.feed(*COMPANY, started(9, token))
    deployment.until_agents(token, 5)
    lost.kill()
    seen: set[int] = set()

    def comes_to(status: int) -> bool:
        seen.add(answer := deployment.look_up(token).status)
        return answer == status

    eventually(lambda: comes_to(503), "503 while it is away")
    lost.start()
    eventually(lambda: comes_to(200), "filled")
    deployment.until_fresh()
    assert seen <= {200, 503}
    assert deployment.agents(token) == [5]


def test_a_revocation_that_a_failover_lost_holds_again(
    three: RedisCluster, deployment: Deployment, tmp_path: Path
) -> None:
    """Only the token's server fails over; the partition's own server has lost nothing."""
    token = elsewhere(three)
    number = holder(three, token)
    with ExitStack() as stack:
        replica = three.add_replica(number, tmp_path, stack)
        worker = deployment.start_all()
        deployment.feed(*COMPANY, started(9, token))
        deployment.until_agents(token, 5)
        three.added[replica].signal(signal.SIGSTOP)
        client(three.ports[number]).client_kill_filter(_type="replica")
        deployment.feed(builders.removed("agent", 5))
        deployment.until_agents(token)
        three.servers[number].kill()
        three.added[replica].signal(signal.SIGCONT)
        client(replica).execute_command("CLUSTER FAILOVER TAKEOVER")
        eventually(lambda: '"source": "memory"' in worker.log(), "healed")
        deployment.until_agents(token)
        deployment.feed(builders.agent(6, 123213))
        deployment.until_agents(token, 6)
        deployment.until("unknown", 401)


@pytest.mark.parametrize("away", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
def test_a_server_that_is_away_takes_only_its_own_partitions_and_views(
    three: RedisCluster, deployment: Deployment, away: signal.Signals
) -> None:
    """One that holds no slot of the partition, and not the token's."""
    for port in three.ports:
        client(port).config_set("cluster-require-full-coverage", "no")
    lost = three.holder(schema.partition_key((ROOT_PARTITION + 1) % PARTITIONS))
    assert lost != three.holder(schema.partition_key(ROOT_PARTITION))
    here = next(t for t in map("token-{}".format, count()) if holder(three, t) != lost)
    there = next(t for t in map("token-{}".format, count()) if holder(three, t) == lost)
    deployment.start_all()
    deployment.feed(*COMPANY, started(9, here), started(10, there))
    for token in (here, there):
        deployment.until_agents(token, 5)
    three.servers[lost].signal(away)
    with ThreadPoolExecutor(2) as threads:
        lost_lookups = threads.submit(statuses, deployment, there)
        assert statuses(deployment, here) == {200}
        assert lost_lookups.result() == {503}
    assert deployment.look_up("unknown").status == 503
    assert "Redis" not in str(deployment.get("/health/ready").body)


def statuses(deployment: Deployment, token: str) -> set[int]:
    """Look the token up for less than the bound; no worker stamps while a server is away."""
    found = set()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        asked = time.monotonic()
        status = deployment.look_up(token).status
        found.add(status)
        assert status == 503 or time.monotonic() - asked < 1
        time.sleep(0.02)
    return found


def elsewhere(three: RedisCluster) -> str:
    """Choose a token on another server than the hash of its partition."""
    partition = three.holder(schema.partition_key(ROOT_PARTITION))
    return next(t for t in map("token-{}".format, count()) if holder(three, t) != partition)


def holder(three: RedisCluster, token: str) -> int:
    return three.holder(schema.record_key(builders.digest(token)))


async def values_of(redis: Redis, keys: list[str]) -> list[Any]:
    """Read the keys as an API does: the error in the place of each value that has one."""
    reads = create_reads(redis)
    found = await asyncio.gather(*map(reads.get, keys), return_exceptions=True)
    return [each if isinstance(each, BaseException) else each[0] for each in found]


async def test_a_slot_that_moves_is_followed_and_is_no_failover(
    kafka: str, three: RedisCluster
) -> None:
    redis, server = connected(three)
    key = schema.TOKENS + "moving"
    here = client(three.ports[three.holder(key)])
    there = client(three.ports[(three.holder(key) + 1) % 3])
    await redis_batch.execute(redis, [("SET", key, "1")])
    await redis_batch.barrier(redis)
    slot = here.cluster("KEYSLOT", key)
    names = {each: each.execute_command("CLUSTER MYID") for each in (here, there)}
    there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[here])
    here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[there])
    here.execute_command("MIGRATE", "127.0.0.1", three.port_of(there), key, 0, 1000)
    assert await values_of(redis, [key]) == [b"1"], "the client follows ASK"
    for each in (here, there):
        each.execute_command("CLUSTER SETSLOT", slot, "NODE", names[there])
    assert await values_of(redis, [key]) == [b"1"], "the client follows MOVED"
    await redis_batch.barrier(redis)
    assert server.changes == 0
    await redis.aclose()


async def test_a_replica_in_its_primarys_place_counts_as_a_change(
    kafka: str, three: RedisCluster, tmp_path: Path
) -> None:
    """It may lack earlier writes, so this holds for clients that do not write to it now."""
    with ExitStack() as stack:
        port = three.add_replica(0, tmp_path, stack)
        redis, server = connected(three)
        await redis_batch.barrier(redis)
        assert server.changes == 0
        client(port).execute_command("CLUSTER FAILOVER TAKEOVER")
        async with asyncio.timeout(20):
            while not server.changes:
                await redis_batch.barrier(redis)
                await asyncio.sleep(0.05)
        assert server.changes == 1
        await redis.aclose()


async def test_a_server_that_restarted_counts_as_a_change(kafka: str, three: RedisCluster) -> None:
    """It holds for clients that send it no commands, too."""
    redis, server = connected(three)
    await redis_batch.barrier(redis)
    three.servers[2].kill()
    with pytest.raises(RedisError):
        await redis_batch.barrier(redis)
    three.servers[2].start()
    eventually(three.is_whole, "whole again")
    await redis_batch.barrier(redis)
    assert server.changes == 1
    await redis.aclose()


async def test_another_history_on_the_same_connection_counts_as_a_change(
    kafka: str, three: RedisCluster
) -> None:
    redis, server = connected(three)
    await redis_batch.barrier(redis)
    assert server.changes == 0
    # As after a promotion.
    client(three.ports[1]).execute_command("DEBUG CHANGE-REPL-ID")
    await redis_batch.barrier(redis)
    assert server.changes == 1
    await redis.aclose()


async def test_of_many_keys_only_those_of_a_server_that_is_away_fail(
    kafka: str, three: RedisCluster
) -> None:
    redis, _ = connected(three)
    keys = [schema.job_key(number) for number in range(20)]
    await redis_batch.execute(redis, [("SET", key, "1") for key in keys])
    three.servers[0].kill()
    found = await values_of(redis, keys)
    for key, value in zip(keys, found, strict=True):
        assert isinstance(value, RedisError) if three.holder(key) == 0 else value == b"1"
    await redis.aclose()


async def test_scripts_that_a_server_has_lost_are_loaded_again(
    kafka: str, three: RedisCluster
) -> None:
    redis, _ = connected(three)
    script = redis.register_script("return redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2])")
    keys = [schema.job_key(number) for number in range(20)]
    for _ in range(2):
        found = await redis_batch.run_script(redis, script, keys, ["x"], range(20))
        assert [first for first, _ in found] == list(range(20))
        for port in three.ports:
            client(port).script_flush()
    assert await values_of(redis, keys) == [f"x{number}".encode() for number in range(20)]
    await redis.aclose()


async def test_each_server_must_keep_everything(kafka: str, three: RedisCluster) -> None:
    redis, _ = connected(three)
    client(three.ports[2]).config_set("maxmemory", "100mb")
    await redis_servers.refuse_eviction(redis, "here")
    client(three.ports[2]).config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(EvictionError, match="maxmemory-policy allkeys-lru"):
        await redis_servers.refuse_eviction(redis, "here")
    await redis.aclose()


def test_the_product_runs_with_the_rights_that_are_given(
    three: RedisCluster, deployment: Deployment
) -> None:
    """A server lists each refused command in its ACL LOG, which must stay empty."""
    for user in (FOLDER / "users.acl").read_text().splitlines()[1:]:
        for port in three.ports:
            client(port).execute_command("ACL SETUSER", *user.split()[1:])
    assert deployment.command("topics").returncode == 0
    deployment.start("worker", **credentials("worker"))
    deployment.start_api(**credentials("api"))
    deployment.until_fresh()
    deployment.feed(*COMPANY, started(9, "token-9"))
    deployment.until_agents("token-9", 5)
    deployment.until("unknown", 401)
    deployment.env |= credentials("operator")
    for words in ("status", "explain 9", "verify"):
        assert deployment.command(*words.split()).returncode == 0, words
    assert [client(port).acl_log() for port in three.ports] == [[], [], []]


def test_a_url_of_the_wrong_kind_is_said(
    three: RedisCluster, deployment: Deployment, tmp_path: Path
) -> None:
    assert deployment.command("topics").returncode == 0
    with ExitStack() as stack:
        stack.enter_context(running_valkey(tmp_path, port := free_port()))
        for url, says in (
            (f"redis://127.0.0.1:{three.ports[0]}/0", "is part of a cluster"),
            (f"redis+cluster://127.0.0.1:{port}", "is not a cluster"),
        ):
            deployment.use_redis(url)
            said = deployment.command("worker")
            assert said.returncode == 2
            assert says in said.stderr


async def test_a_cluster_that_needs_no_password_is_warned_of(
    kafka: str, three: RedisCluster
) -> None:
    redis, _ = connected(three)
    settings = Settings(redis_url=f"redis+cluster://:secret@127.0.0.1:{three.ports[0]}")
    with capture_logs() as logs:
        await warn_of_open_server(redis, settings)
    assert [entry["event"] for entry in logs] == ["Redis needs no password"]
    await redis.aclose()
