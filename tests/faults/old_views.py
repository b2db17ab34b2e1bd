"""Stories in which an API reads views that are older than the stamps beside them.

Each runs twice: with the product as it is, and with one mechanism of the API taken out.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from projector.store import schema
from tests.faults.interleavings import is_stopped
from tests.faults.namespaces import ScriptedNamespace, Token
from tests.faults.observer import Observer
from tests.faults.proxy import Proxy
from tests.faults.scenario import Fault, Scenario
from tests.integration.redis_servers import RedisCluster, client
from tests.integration.servers import Server

MEETINGS_IGNORED: Final[Fault] = ("meetings ignored", {})
LATEST_POLL: Final[Fault] = ("latest poll", {})
# Longer than the worker needs for its stamp and an API for its poll; shorter than an API waits.
DELAY_S: Final = 1.5
WATCH_S: Final = 2.0
CLIENTS: Final = 8
PAUSE_S: Final = 0.005


def come_back_from_an_old_dump(scenario: Scenario, redis: Server) -> None:
    """Crash Redis; it comes back with a dump from before revocations that are past the bound."""
    scenario.start_scripted()
    scenario.deployment.redis.save()
    dumped = time.monotonic()
    revoke(scenario, scenario.scripted)
    scenario.begin_fault()
    redis.kill()
    with_lookups = scenario.background.start(
        look_up_often(scenario.observer, tokens(scenario.scripted))
    )
    redis.start()
    scenario.background.wait(with_lookups, 10 * WATCH_S)
    scenario.add_proof(f"a dump from {time.monotonic() - dumped:.0f} s before")


def fail_over_to_a_replica_behind(
    scenario: Scenario, cluster: RedisCluster, number: int, replica: int, *, asleep: bool
) -> None:
    """Fail one server of a cluster over to a replica without revocations that are past the bound.

    The stamps of their partitions are on other servers. With `asleep` no worker notices meanwhile.
    """
    endangered = [each for each in scenario.scripted if is_elsewhere(cluster, number, each)]
    assert endangered, f"no scripted token is on server {number} without its partition's stamp"
    cluster.added[replica].signal(signal.SIGSTOP)
    client(cluster.ports[number]).client_kill_filter(_type="replica")
    revoke(scenario, endangered)
    scenario.begin_fault()
    for worker in scenario.workers if asleep else ():
        worker.signal(signal.SIGSTOP)
    cluster.servers[number].kill()
    cluster.added[replica].signal(signal.SIGCONT)
    client(replica).execute_command("CLUSTER FAILOVER TAKEOVER")
    scenario.background.wait(
        scenario.background.start(look_up_often(scenario.observer, tokens(endangered))),
        10 * WATCH_S,
    )
    for worker in scenario.workers:
        worker.signal(signal.SIGCONT)
    scenario.add_proof(f"workers {'asleep' if asleep else 'awake'}: {len(endangered)} views behind")


def is_elsewhere(cluster: RedisCluster, number: int, scripted: ScriptedNamespace) -> bool:
    """Return whether the server has the scripted view, and another one its stamp."""
    view = cluster.holder(schema.record_key(scripted.token.digest))
    return view == number != cluster.holder(schema.partition_key(scripted.partition))


def answer_slowly(scenario: Scenario, trigger: Path, proxy: Proxy) -> None:
    """Delay a view that is read just before the worker wakes, revokes and stamps.

    Answers without it are not delayed, such as the stamps that the API polls.
    """
    scenario.start_scripted()
    worker, scripted = scenario.workers[0], scenario.scripted[0]
    trigger.write_text(scripted.token.digest)
    scenario.send(scripted.revoked())
    scenario.until(lambda: is_stopped(worker), "the worker stopped before its write")
    scenario.run_past_the_bound()
    scenario.begin_fault()
    proxy.delay_answers(scripted.token.digest.encode(), DELAY_S)
    lookups = scenario.background.start(
        look_up_often(scenario.observer, [scripted.token], DELAY_S / 2)
    )
    # Two reads, as many as an API has under way, are with Redis before the worker goes on.
    time.sleep(0.1)
    worker.signal(signal.SIGCONT)
    scenario.background.wait(lookups, 10 * WATCH_S)
    proxy.delay_answers(scripted.token.digest.encode(), 0.0)
    scenario.add_proof(f"{proxy.delayed} answers delayed by {DELAY_S:g} s")


def revoke(scenario: Scenario, revoked: Sequence[ScriptedNamespace]) -> None:
    """Revoke the agents; return once an answer with one of them is an over-grant."""
    for scripted in revoked:
        scenario.send(scripted.revoked())
    for scripted in revoked:
        scenario.until_agents(scripted, ())
    scenario.run_past_the_bound()


def tokens(scripted: Sequence[ScriptedNamespace]) -> list[Token]:
    return [each.token for each in scripted]


async def look_up_often(
    observer: Observer, wanted: Sequence[Token], seconds: float = WATCH_S
) -> None:
    """Look the tokens up in turn, by several clients at once."""
    end = time.monotonic() + seconds
    await asyncio.gather(*(_look_up(observer, wanted, end) for _ in range(CLIENTS)))


async def _look_up(observer: Observer, wanted: Sequence[Token], end: float) -> None:
    connection = observer.new_connection()
    try:
        while time.monotonic() < end:
            for token in wanted:
                await observer.look_up(connection, token)
                await asyncio.sleep(PAUSE_S)
    finally:
        await connection.close()
