"""Records that the overlay holds back, by every way on which a lookup finds one."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as LostConnectionError

from api import redis_mget
from api.read_batcher import Value
from api.redis_mget import ClusterGets
from projector.clients.redis_cluster import Cluster, CommandResult
from projector.store import schema
from projector.store.schema import Version
from tests.unit.api.lookup_world import EPOCH, LookupWorld, owners, soon, still_waits
from tests.unit.api.test_lookup import reason
from tests.unit.api.test_signed_lookup import JOB_KEY, PROVISIONAL, SignedWorld

HELD = "partition 0 is writing a change that may take agents from this job"
# The version of the records that tests put is 0x1F of this epoch.
NEXT = Version(EPOCH, 0x20)
BODY = json.dumps(
    {
        "allowed_agents": [{"id": 7, "config_project": {"id": 3}, "configuration": {}}],
        "project": {"id": 123, "groups": [{"id": 12}]},
        "user": {"id": 5, "username": "root", "roles_in_project": []},
    }
).encode()


@pytest.fixture
def signed(lookup_world: LookupWorld, tmp_path: Path) -> SignedWorld:
    return SignedWorld(lookup_world, tmp_path)


async def test_a_record_is_held_back_until_it_is_written_again(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known", body=BODY)
    await lookup_world.put("other", body=BODY.replace(b'"id": 7', b'"id": 8'))
    await lookup_world.hold_back("agent:7", version=NEXT)
    assert reason(await lookup_world.ask()) == HELD
    assert (await lookup_world.ask("other")).status == 200
    await lookup_world.hold_back("agent:7", version=Version(EPOCH, 0x1F))
    assert (await lookup_world.ask()).status == 200


async def test_staleness_and_a_newer_claim_come_first(lookup_world: LookupWorld) -> None:
    """The line of a replaced owner holds back nothing: its records are refused, or are newer."""
    await lookup_world.put("known", body=BODY)
    await lookup_world.hold_back("agent:7", version=NEXT)
    await lookup_world.stamp(epoch=EPOCH + 1)
    await lookup_world.polled()
    assert "older than the claim" in reason(await lookup_world.ask())
    await lookup_world.put("known", body=BODY, epoch=EPOCH + 1)
    assert (await lookup_world.ask()).status == 200


async def test_what_is_no_overlay_holds_back_nothing(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known", body=BODY)
    await lookup_world.redis.set(schema.OVERLAY, "no line")
    assert (await lookup_world.ask()).status == 200
    await lookup_world.redis.delete(schema.OVERLAY)
    await lookup_world.redis.hset(schema.OVERLAY, "a", "b")
    assert (await lookup_world.ask()).status == 200


@pytest.mark.parametrize("way", ["own digest", "job", "job alone", "pointer"])
async def test_the_record_of_a_signed_token_is_held_back(signed: SignedWorld, way: str) -> None:
    key = JOB_KEY
    if way == "own digest":
        key = signed.key
    elif way == "pointer":
        key = await signed.point()
    await signed.put(key, body=BODY)
    if way == "job alone":
        assert (await signed.ask()).status == 200
    await signed.world.hold_back("group:12", version=NEXT)
    assert reason(await signed.ask()) == HELD


async def test_a_record_that_came_during_a_proof_is_held_back(lookup_world: LookupWorld) -> None:
    await lookup_world.put("known", 401, PROVISIONAL)
    answer = asyncio.create_task(lookup_world.ask())
    assert await still_waits(answer, lookup_world)
    await lookup_world.put("known", body=BODY)
    await lookup_world.hold_back("user:5", version=NEXT)
    async with owners(lookup_world, 0):
        assert reason(await soon(answer)) == HELD


# a cluster, where the overlay is on a server of its own


class TwoServers(Cluster):
    """Answers for the server of all records, and for that of the overlay."""

    def __init__(self, overlay: object) -> None:
        self.overlay = overlay
        self.answers = asyncio.Event()
        self.answers.set()

    async def execute_each(self, commands: Sequence[Sequence[object]]) -> list[CommandResult]:
        if commands != [("GET", schema.OVERLAY)]:
            return [CommandResult(b"record", 0.0, "other")] * len(commands)
        await self.answers.wait()
        if isinstance(self.overlay, Exception):
            raise self.overlay
        return [CommandResult(self.overlay, 0.0, "one")]


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (b"line", b"line"),
        (None, None),
        (LostConnectionError("gone"), None),
        (OSError("gone"), None),
        (KeyError("a slot"), None),
    ],
    ids=repr,
)
async def test_a_cluster_reads_it_at_the_same_time(stored: object, found: Value) -> None:
    gets = ClusterGets(TwoServers(stored))
    assert await gets(["a", "b"]) == ([b"record"] * 2, ["other"] * 2, found)


async def test_a_silent_server_of_the_overlay_delays_one_batch_and_none_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_mget, "OVERLAY_S", 0.01)
    servers = TwoServers(b"line")
    gets = ClusterGets(servers)
    servers.answers.clear()
    assert (await gets(["a"])).overlay is None
    monkeypatch.setattr(redis_mget, "OVERLAY_S", 60.0)
    async with asyncio.timeout(5.0):
        assert (await gets(["a"])).overlay is None
    servers.answers.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await gets(["a"])).overlay == b"line"


async def test_each_of_the_batches_under_way_has_it() -> None:
    """Without it they would answer from views that are held back."""
    gets = ClusterGets(TwoServers(b"line"))
    found = await asyncio.gather(gets(["a"]), gets(["b"]))
    assert [each.overlay for each in found] == [b"line"] * 2


async def test_a_read_of_it_whose_batch_is_given_up_delays_none_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_mget, "OVERLAY_S", 60.0)
    servers = TwoServers(b"line")
    servers.answers.clear()
    gets = ClusterGets(servers)
    batch = asyncio.ensure_future(gets(["a"]))
    await asyncio.sleep(0.001)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    async with asyncio.timeout(1.0):
        assert (await gets(["a"])).overlay is None
    servers.answers.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await gets(["a"])).overlay == b"line"
