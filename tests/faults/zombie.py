"""A worker that sleeps in the middle of a write and wakes up when another owns its partition."""

import signal
from pathlib import Path

from tests.faults.scenario import Scenario
from tests.integration.servers import Server


def wake_a_zombie(scenario: Scenario, trigger: Path) -> Server:
    """Let the first worker sleep with a view in its hands that is revoked while it sleeps.

    It holds the view of a crafted token that lists the agent. The other worker claims the
    partition and takes the agent away; then the first one goes on.
    """
    zombie = scenario.workers[0]
    scenario.craft()
    scenario.until(lambda: bool(scenario.owned_by(zombie)), "the worker owns a partition")
    partition = scenario.owned_by(zombie)[0]
    crafted = next(c for c in scenario.crafted if c.partition == partition)
    trigger.write_text(crafted.token.digest)
    scenario.send(crafted.granted("maintainer"))
    scenario.until(lambda: is_stopped(zombie), "the worker stopped itself before its write")
    scenario.inject()
    sleeper = scenario.owner(partition)
    scenario.until(lambda: scenario.owner(partition) != sleeper, "another claims the partition")
    scenario.send(crafted.revoked())
    scenario.until_agents(crafted, ())
    # Beyond the bound a list that comes back is an over-grant, however short.
    scenario.go_on_past_the_bound()
    zombie.signal(signal.SIGCONT)
    scenario.prove("another claimed while it slept")
    return zombie


def is_stopped(server: Server) -> bool:
    """Whether the process is stopped by a signal."""
    stat = Path(f"/proc/{server.process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"
