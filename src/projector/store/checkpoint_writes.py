"""Writes of one partition's checkpoint, with its last views in the same call where these are few.

An event alone changes a few views. Records, pointers and checkpoint one after the other are three
round trips to Redis before anyone sees the event as done. One call is one.

It leans on one property of Redis: a script runs as a whole, and goes to replicas and to disk as a
whole. So views still come before the checkpoint: no server has the checkpoint without them.

The script does the plain case alone. It writes nothing where a key holds a newer record, one of
another partition, or another pointer. `ViewWrites` then decides in calls of its own, under a higher
revision, and the checkpoint follows. The same happens to long writes, and in a cluster, where the
views are on other servers. What may come in between:

- **The answer is lost.** The owner sends the same call again, with the same revision. If the first
  attempt ran, its revision is stored: the script writes nothing and answers alike.
- **An attempt comes late.** Behind its repetition it finds its own revision. Behind a later
  checkpoint it finds a revision that is neither its own nor the former one, and is refused. Behind
  later views without their checkpoint it finds newer records, and writes nothing.
- **Another owner claims.** Before the call, the claim refuses it, and no view is written. Behind
  it, the new owner loads this checkpoint. No claim comes between views and checkpoint.
- **Redis loses data.** Without the claim or the former revision the call is refused, and the owner
  heals. A promoted replica that has both runs it; the change of the server is refused after it.
- **The worker dies.** Redis has all of it or nothing. What is missing at most is the ack.
- **A lookup reads meanwhile.** It finds records and pointers from before or from behind the call.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from redis.asyncio import Redis

from projector.clients.redis_batch import Argument, flat
from projector.clients.redis_cluster import Cluster
from projector.domain.fact_keys import Key
from projector.domain.views import View
from projector.store import lua_scripts, schema
from projector.store.portions import BYTES_PER_CALL
from projector.store.schema import Version

FIELDS_PER_CALL: Final = 1000
# The outcome of a call whose views must be written one by one.
OBSTACLE: Final = b"obstacle"


class Step(NamedTuple):
    """The part of a checkpoint in one call: fields of the hash, changed facts, number of all."""

    places: Mapping[str, Argument]
    facts: Sequence[tuple[Key, bytes | None]]
    total: int


class CheckpointWrites:
    """The hash and the facts of one partition in Redis, as its owner writes them.

    `takes_views` unless this is a cluster. Every method raises `RedisError` if Redis does not
    answer.
    """

    def __init__(self, redis: Redis, partition: int, owner: str) -> None:
        self._owner = owner
        self._partition = f"{partition:04}"
        self._keys = [schema.partition_key(partition), schema.facts_key(partition)]
        self._script = redis.register_script(lua_scripts.CHECKPOINT)
        self.takes_views = not isinstance(redis, Cluster)

    async def write(
        self,
        former: Version,
        revision: int,
        step: Step,
        keys: Sequence[str] = (),
        values: Sequence[Argument] = (),
    ) -> bytes:
        """Write one step, and the `values` with their expiry to the `keys` of views before it.

        Returns `ok`, `OBSTACLE` if nothing was written because of a view, or what Redis no longer
        has of this owner's.
        """
        args: list[Argument] = [former.epoch, self._owner, former.revision, revision]
        args += [self._partition, str(Version(former.epoch, revision)), *values]
        sets = [(key, value) for key, value in step.facts if value is not None]
        deletes = [key for key, value in step.facts if value is None]
        args += [step.total, len(step.places), *flat(step.places.items())]
        args += [len(sets), *flat(sets), *deletes]
        outcome: bytes = await self._script(keys=[*self._keys, *keys], args=args)
        return outcome


def fits_one_call(views: Sequence[View], facts: Mapping[Key, bytes | None]) -> bool:
    """Return whether views and facts are little enough to block Redis for one call."""
    size = sum(len(view.body) for view in views) + sum(len(fact or b"") for fact in facts.values())
    return len(facts) <= FIELDS_PER_CALL and size <= BYTES_PER_CALL
