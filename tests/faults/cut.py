"""Workers that cannot reach Kafka while everybody else can."""

from tests.faults.proxy import Proxy
from tests.faults.scenario import Scenario


def revoke_while_cut_off(scenario: Scenario, proxy: Proxy) -> None:
    """Take the agents of every crafted job away where no worker can learn of it."""
    scenario.craft()
    scenario.inject()
    proxy.freeze()
    for crafted in scenario.crafted:
        scenario.send(crafted.revoked())
    # Beyond the bound a list that is still answered is an over-grant.
    scenario.go_on_past_the_bound()
    scenario.go_on_past_the_bound()
