"""A partition that is rebuilt: what its worker left, and what the topics make of it."""

from typing import Any

from projector.clients.redis_servers import RedisServers
from projector.domain.decision import ViewRules
from projector.domain.projection import Policy
from projector.operators.rebuild import rebuilt_facts, takeover
from projector.operators.rebuild.rebuilt_facts import Rebuilt
from projector.operators.rebuild.takeover import Patience, RebuildClients
from projector.operators.verify.comparison import Verifier
from projector.store import partition_state, schema
from tests import builders
from tests.unit.worker.owned_partition import COMPANY, PARTITION, QUICK, Setup, until

FACTS = schema.facts_key(PARTITION)
POLICY = Policy(1, 30, 10**9)
# No worker claims unless a test starts one.
IMPATIENT = Patience(poll_s=0.01, claimed_within_s=0.05)


def clients(setup: Setup, patience: Patience = IMPATIENT) -> RebuildClients:
    kafka: Any = setup.kafka
    return RebuildClients(
        setup.redis, RedisServers(), kafka, kafka, POLICY, QUICK, patience, setup.sources
    )


async def serve(setup: Setup, facts: Rebuilt, patience: Patience = IMPATIENT) -> bool:
    tools = clients(setup, patience)
    return await takeover.serve(takeover.create_owner(facts, tools), tools)


async def put_in_place(setup: Setup, patience: Patience = IMPATIENT) -> bool:
    return await serve(setup, await rebuilt(setup), patience)


async def rebuilt(setup: Setup) -> Rebuilt:
    kafka: Any = setup.kafka
    state = await partition_state.read_partition_state(setup.redis, PARTITION)
    ends, reported = await rebuilt_facts.find_ends(kafka, PARTITION, state)
    facts = Rebuilt(PARTITION, POLICY, kafka)
    await facts.begin(reported)
    await facts.read(ends, lambda _: None)
    return facts


async def owned(setup: Setup, *more: dict[str, Any] | bytes) -> None:
    """A worker has projected the company and stopped."""
    setup.kafka.add(*COMPANY, builders.started(9, 7), *more)
    async with setup.owning():
        await until(setup.agents)


async def corrupt(setup: Setup, old: bytes = b'"level":30', new: bytes = b'"level":50') -> None:
    field = "3/member/group:3/user:1/direct"
    raw: Any = await setup.redis.hget(FACTS, field)
    assert old in raw
    await setup.redis.hset(FACTS, field, raw.replace(old, new))


async def changed(setup: Setup, facts: Rebuilt) -> list[str]:
    look = await Verifier(setup.redis, ViewRules(30)).look(PARTITION)
    ours = facts.projection.facts
    return [c.key for c in rebuilt_facts.changed_facts(look.facts, ours, look.now, 10**9)]
