"""Interleavings: faults whose steps must happen in one exact order.

Each endangers a view at the worst moment. It runs twice: with the product as it is, and without
the mechanism that protects the view.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka import TopicPartition

from projector.events.model import Topic
from tests import builders
from tests.faults.brokers import NUMBERS, Brokers, led_by
from tests.faults.fake_clock import FakeClock
from tests.faults.namespaces import ScriptedNamespace, Token
from tests.faults.proxy import Proxy
from tests.faults.scenario import BOUND_S, Scenario
from tests.integration.deployment import PARTITIONS
from tests.integration.servers import Server

BACK_S: Final = 8

ROUNDS: Final = 6
ROUND_S: Final = 1.0
EARLY_S: Final = 0.3


@dataclass
class ReplicatedRedis:
    """A primary, its replica, and the port of a proxy to the current primary."""

    old: Any
    new: Any
    port: int
    fail_over: Callable[[], None]


def flush_everything(scenario: Scenario) -> None:
    """Run FLUSHALL and prove in the same transaction that nothing is left.

    Only a heal writes the scripted views again.
    """
    scenario.start_scripted()
    redis = scenario.deployment.redis
    before = redis.dbsize()
    scenario.begin_fault()
    with redis.pipeline(transaction=True) as pipe:
        _, left = pipe.flushall().dbsize().execute()
    assert before > 0
    assert left == 0
    scenario.add_proof(f"{before:,} keys, then {left}")


def wake_zombie(scenario: Scenario, trigger: Path) -> Server:
    """Stop the first worker before it writes a view; wake it after a revocation.

    The worker is about to write a scripted token's view that lists the agent. Meanwhile the other
    worker claims the partition and revokes the agent. Then the first one goes on.
    """
    zombie = scenario.workers[0]
    scenario.start_scripted()
    scripted = scenario.scripted_in(scenario.owned_by(zombie)[0])
    trigger.write_text(scripted.token.digest)
    scenario.send(scripted.granted("maintainer"))
    scenario.until(lambda: is_stopped(zombie), "the worker stopped before its write")
    scenario.begin_fault()
    scenario.send(scripted.revoked())
    scenario.until_agents(scripted, ())
    # Beyond the bound, an agent that comes back is an over-grant, however short.
    scenario.run_past_the_bound()
    zombie.signal(signal.SIGCONT)
    scenario.add_proof("another worker answered while it was stopped")
    return zombie


def revoke_while_cut_off(scenario: Scenario, proxy: Proxy) -> None:
    """Revoke the agent of every scripted job while the workers are cut off from Kafka."""
    scenario.start_scripted()
    scenario.begin_fault()
    proxy.freeze()
    for scripted in scenario.scripted:
        scenario.send(scripted.revoked())
    # Beyond the bound, an answer that still lists the agent is an over-grant.
    scenario.run_past_the_bound()
    scenario.run_past_the_bound()
    scenario.add_proof("revoked while cut off")


def revoke_behind_a_deposed_leader(scenario: Scenario, brokers: Brokers) -> int:
    """Depose a leader that does not learn of it, then revoke agents and start jobs.

    Returns the number of its broker. Workers and traffic reach it as before.
    """
    scenario.start_scripted()
    membership, *others = [scenario.deployment.prefix + topic for topic in Topic]
    before = brokers.leaders(NUMBERS[0], [membership, *others])
    deposed = before[TopicPartition(membership, scenario.scripted[0].partition)].leader
    led = led_by(deposed, before)
    witness = next(number for number in NUMBERS if number != deposed)
    scenario.begin_fault()
    brokers.cut_off(deposed)
    scenario.until(
        lambda: not led_by(deposed, brokers.leaders(witness, [membership, *others])), "a new leader"
    )
    scenario.send_around(brokers.others(deposed), deposed)
    for scripted in scenario.scripted:
        scenario.send(scripted.revoked())
        scenario.observer.watched.append(token := scripted.another_token())
        scenario.send(scripted.started(token), token)
    # Beyond the bound, an answer that still lists the agent is an over-grant.
    scenario.run_past_the_bound()
    scenario.run_for(BOUND_S)
    assert led_by(deposed, brokers.leaders(deposed, [membership, *others])) == led
    scenario.add_proof(f"broker {deposed} still takes itself for the leader of {len(led)} logs")
    return deposed


def lose_a_view(scenario: Scenario, trigger: Path, redis: ReplicatedRedis) -> None:
    """Fail over to a replica that lacks only one view and has every revision.

    The only worker is stopped between writing the view that revokes an agent and its checkpoint.
    """
    scenario.start_scripted()
    worker, scripted = scenario.workers[0], scenario.scripted[0]
    scenario.pause_traffic()
    scenario.until_fresh()
    scenario.until(
        lambda: revisions(redis.old) == revisions(redis.new), "the replica is up to date"
    )
    trigger.write_text(scripted.token.digest)
    redis.new.replicaof("NO", "ONE")
    scenario.begin_fault()
    scenario.send(scripted.revoked())
    scenario.until(lambda: is_stopped(worker), "the worker stopped after its write")
    assert revisions(redis.old) == revisions(redis.new)
    assert token_record(redis.old, scripted) != token_record(redis.new, scripted)
    scenario.add_proof("one view behind, no revision")
    redis.fail_over()
    worker.signal(signal.SIGCONT)
    scenario.run_past_the_bound()
    scenario.resume_traffic()


def start_jobs_behind_agents(scenario: Scenario) -> None:
    """Add agents, wait for Kafka's acknowledgement, then start a job; its token is watched."""
    scenario.start_scripted()
    scenario.begin_fault()
    acknowledged: dict[Token, float] = {}
    for number in range(1, ROUNDS + 1):
        scenario.observer.watched = []
        for scripted in scenario.scripted:
            agent, token = scripted.agent + 10 * number, scripted.another_token(number)
            scenario.observer.watched.append(token)
            scenario.send(builders.agent(agent, scripted.number, root=scripted.root))
            acknowledged[token] = scenario.send(scripted.started(token), token).acked
        scenario.run_for(ROUND_S)
    passed = [
        lookup.sent - acknowledged[lookup.token]
        for lookup in scenario.observer.lookups
        if lookup.token in acknowledged
    ]
    early = sum(0 < seconds < EARLY_S for seconds in passed)
    assert early >= len(acknowledged) // 2, f"{early} lookups before the agents were applied"
    scenario.add_proof(f"{early} lookups of {len(acknowledged)} new jobs at once")


def jump_for(scenario: Scenario, clock: FakeClock, ahead_s: int, seconds: float) -> None:
    """Let Redis' clock be wrong for a while; then jobs start that it had not seen."""
    scenario.start_scripted()
    redis = scenario.deployment.redis
    scenario.begin_fault()
    clock.set(ahead_s)
    scenario.run_for(seconds)
    left = redis.dbsize()
    clock.set(0)
    for scripted in scenario.scripted:
        started = scripted.another_token()
        scenario.send(scripted.started(started), started)
        scenario.observer.watched.append(started)
    scenario.add_proof(f"{left} keys left")


def step_back(scenario: Scenario, clock: FakeClock) -> None:
    """Set Redis' clock back while the worker sleeps and revocations wait for it."""
    scenario.start_scripted()
    # Lookups of tokens that start while the worker sleeps wait a second each.
    scenario.pause_traffic()
    worker = scenario.workers[0]
    scenario.begin_fault()
    worker.signal(signal.SIGSTOP)
    for scripted in scenario.scripted:
        scenario.send(scripted.revoked())
    scenario.run_for(BOUND_S - 1)
    clock.set(-BACK_S)
    # The last stamp is in the future first, and then would seem fresh again.
    scenario.run_for(BACK_S + BOUND_S - 1)
    worker.signal(signal.SIGCONT)
    scenario.until(lambda: "clock jumped" in worker.log(), "the worker noticed")
    clock.set(0)
    scenario.resume_traffic()
    scenario.add_proof(f"{BACK_S} s back, noticed")


def spoil_keys(scenario: Scenario) -> None:
    """Overwrite the keys that all answers depend on, one after the other; wait for each."""
    redis = scenario.deployment.redis
    scenario.begin_fault()
    for key in ("partition:{0}", "facts:{1}", "partitions"):
        with redis.pipeline(transaction=True) as pipe:
            pipe.delete(f"allowed-agents:{key}").set(f"allowed-agents:{key}", "x").execute()
        scenario.run_for(1)
        scenario.until_fresh()
    redis.delete("allowed-agents:partitions")
    scenario.run_for(1)
    scenario.add_proof("4 keys")


def is_stopped(server: Server) -> bool:
    """Return whether a signal has stopped the process."""
    stat = Path(f"/proc/{server.process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def revisions(redis: Any) -> list[int]:
    """Read the revision of every partition from this server."""
    keys = [f"allowed-agents:partition:{{{p}}}" for p in range(PARTITIONS)]
    return [int(redis.hget(key, "revision") or 0) for key in keys]


def token_record(redis: Any, scripted: ScriptedNamespace) -> bytes | None:
    """Read the record of the scripted token from this server."""
    stored: bytes | None = redis.get(f"allowed-agents:token:{scripted.token.digest}")
    return stored
