"""What must happen in one order exactly: each puts a view in danger at the worst moment.

Each is told twice: with the product as it is, and with the mechanism that averts it taken out.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.namespaces import ScriptedNamespace
from tests.faults.proxy import Proxy
from tests.faults.scenario import Scenario
from tests.integration.deployment import PARTITIONS
from tests.integration.servers import Server


@dataclass
class ReplicatedRedis:
    """A primary, its replica, and the port that leads to the one that counts."""

    old: Any
    new: Any
    port: int
    fail_over: Callable[[], None]


def flush_everything(scenario: Scenario) -> None:
    """FLUSHALL, and in the same transaction the proof that nothing is left.

    Nothing but a heal writes the scripted views again.
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
    """Let the first worker sleep with a view in its hands that is revoked while it sleeps.

    It holds the view of a scripted token that lists the agent. The other worker claims the
    partition and takes the agent away; then the first one goes on.
    """
    zombie = scenario.workers[0]
    scenario.start_scripted()
    scripted = scenario.scripted_in(scenario.owned_by(zombie)[0])
    trigger.write_text(scripted.token.digest)
    scenario.send(scripted.granted("maintainer"))
    scenario.until(lambda: is_stopped(zombie), "the worker stopped itself before its write")
    scenario.begin_fault()
    scenario.send(scripted.revoked())
    scenario.until_agents(scripted, ())
    # Beyond the bound a list that comes back is an over-grant, however short.
    scenario.run_past_the_bound()
    zombie.signal(signal.SIGCONT)
    scenario.add_proof("another answered while it slept")
    return zombie


def revoke_while_cut_off(scenario: Scenario, proxy: Proxy) -> None:
    """Take the agents of every scripted job away where no worker can learn of it."""
    scenario.start_scripted()
    scenario.begin_fault()
    proxy.freeze()
    for scripted in scenario.scripted:
        scenario.send(scripted.revoked())
    # Beyond the bound a list that is still answered is an over-grant.
    scenario.run_past_the_bound()
    scenario.run_past_the_bound()
    scenario.add_proof("revoked while cut off")


def lose_a_view(scenario: Scenario, trigger: Path, redis: ReplicatedRedis) -> None:
    """Fail over to a replica that misses one view and nothing else, not even a revision.

    The only worker sleeps between the view, which takes an agent away, and its checkpoint.
    """
    scenario.start_scripted()
    worker, scripted = scenario.workers[0], scenario.scripted[0]
    scenario.pause_traffic()
    scenario.until_fresh()
    scenario.until(lambda: revisions(redis.old) == revisions(redis.new), "the replica has it all")
    trigger.write_text(scripted.token.digest)
    redis.new.replicaof("NO", "ONE")
    scenario.begin_fault()
    scenario.send(scripted.revoked())
    scenario.until(lambda: is_stopped(worker), "the worker stopped itself after its write")
    assert revisions(redis.old) == revisions(redis.new)
    assert view(redis.old, scripted) != view(redis.new, scripted)
    scenario.add_proof("one view behind, no revision")
    redis.fail_over()
    worker.signal(signal.SIGCONT)
    scenario.run_past_the_bound()
    scenario.resume_traffic()


def is_stopped(server: Server) -> bool:
    """Whether the process is stopped by a signal."""
    stat = Path(f"/proc/{server.process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def revisions(redis: Any) -> list[int]:
    """Of every partition, as this server has it."""
    keys = [f"allowed-agents:partition:{{{p}}}" for p in range(PARTITIONS)]
    return [int(redis.hget(key, "revision") or 0) for key in keys]


def view(redis: Any, scripted: ScriptedNamespace) -> bytes | None:
    """The record of the scripted token, as this server has it."""
    stored: bytes | None = redis.get(f"allowed-agents:token:{scripted.token.digest}")
    return stored
