"""A rebuild reports what differs, refuses what would be lost, and puts the rest in place."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from projector.clients import redis_batch
from projector.errors import DifferentRulesError, RebuildFailedError, RebuildLossError
from projector.events.model import Topic
from projector.operators.rebuild import rebuilt_facts, takeover
from projector.operators.rebuild import run as rebuild_run
from projector.operators.rebuild.run import (
    Counts,
    FactDifference,
    Finding,
    InPlace,
    Loss,
    NotCompared,
    Options,
    Output,
    ViewDifference,
)
from projector.operators.verify import comparison
from projector.store import schema
from tests import builders
from tests.builders import digest
from tests.unit.operators.rebuild.rebuilding import (
    FACTS,
    clients,
    corrupt,
    owned,
)
from tests.unit.worker.owned_partition import COMPANY, PARTITION, Setup

DRY_RUN = Options(dry_run=True, accept_loss=False)
PUT_IN_PLACE = Options(dry_run=False, accept_loss=False)
ACCEPT_LOSS = Options(dry_run=False, accept_loss=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PAUSE_S", 0.0)


class Run:
    """A rebuild of the partition, with what it reported and read."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.found: list[Finding] = []
        self.read: list[tuple[int, int, int]] = []

    async def __call__(self, options: Options) -> Counts:
        return await rebuild_run.rebuild_partitions(
            clients(self.setup), [PARTITION], options, Output(self.found.append, self._reading)
        )

    @contextmanager
    def _reading(self, partition: int, events: int) -> Iterator[Callable[[int], object]]:
        counts: list[int] = []
        yield counts.append
        self.read.append((partition, events, sum(counts)))


@pytest.fixture
def run(setup: Setup) -> Run:
    return Run(setup)


async def test_nothing_is_reported_of_a_partition_as_its_worker_left_it(run: Run) -> None:
    await owned(run.setup)
    assert await run(DRY_RUN) == Counts(losses=0, facts=0, views=0, tokens=1)
    assert run.found == []
    assert run.read == [(PARTITION, 5, 5)]


async def test_what_differs_is_reported_and_replaced(run: Run) -> None:
    await owned(run.setup)
    right = await run.setup.redis.hgetall(FACTS)
    await corrupt(run.setup)
    await run.setup.redis.hdel(FACTS, "3/agent/5")
    await run.setup.redis.hset(FACTS, "3/agent/6", right[b"3/agent/5"])
    await run.setup.redis.hset(schema.partition_key(PARTITION), "facts", str(len(right)))
    counts = await run(DRY_RUN)
    assert (counts.facts, counts.views) == (3, 0)
    missing, extra, different = run.found
    assert isinstance(missing, FactDifference)
    assert (missing.what, missing.key, missing.stored) == ("fact missing", "3/agent/5", None)
    assert isinstance(extra, FactDifference)
    assert (extra.what, extra.key, extra.rebuilt) == ("fact extra", "3/agent/6", None)
    assert isinstance(different, FactDifference)
    assert different.what == "fact different"
    assert (different.stored.data.level, different.rebuilt.data.level) == (50, 30)  # type: ignore[union-attr]
    assert await run.setup.redis.hget(FACTS, "3/agent/5") is None
    run.found.clear()
    await run(PUT_IN_PLACE)
    assert run.found[-1] == InPlace(partition=PARTITION, facts=5, claimed=False)
    assert await run.setup.redis.hgetall(FACTS) == right


async def test_views_are_compared_with_the_rebuilt_facts_over_grants_first(run: Run) -> None:
    await owned(run.setup, builders.started(8, 7))
    key = schema.record_key(digest("token-9"))
    raw: Any = await run.setup.redis.get(key)
    await run.setup.redis.set(key, raw.replace(b'"id":5', b'"id":6'), keepttl=True)
    await run.setup.redis.delete(schema.record_key(digest("token-8")))
    counts = await run(DRY_RUN)
    assert (counts.views, counts.tokens) == (2, 2)
    over_grant, missing = run.found
    assert isinstance(over_grant, ViewDifference)
    assert (over_grant.difference.job, over_grant.settled) == (9, True)
    assert isinstance(missing, ViewDifference)
    assert (missing.difference.job, missing.settled) == (8, True)


async def test_a_checkpoint_that_cannot_be_compared_is_a_difference(run: Run) -> None:
    run.setup.kafka.add(*COMPANY)
    counts = await run(DRY_RUN)
    (found,) = run.found
    assert isinstance(found, NotCompared)
    assert counts.facts == 1


async def test_a_loss_is_refused_before_anything_is_read(run: Run) -> None:
    await owned(run.setup)
    run.setup.kafka.records[Topic.AGENT_CONFIG] = []
    before = await run.setup.redis.hgetall(schema.partition_key(PARTITION))
    with pytest.raises(RebuildLossError, match="partition 0: agent-config was recreated"):
        await run(PUT_IN_PLACE)
    assert (run.found, run.read) == ([], [])
    assert await run.setup.redis.hgetall(schema.partition_key(PARTITION)) == before


async def test_a_loss_is_reported_by_a_dry_run_and_accepted_on_request(run: Run) -> None:
    await owned(run.setup)
    run.setup.kafka.records[Topic.AGENT_CONFIG] = []
    assert (await run(DRY_RUN)).losses == 1
    loss, extra, without_agent = run.found
    assert isinstance(loss, Loss)
    assert "agent-config was recreated" in loss.reason
    assert isinstance(extra, FactDifference)
    assert extra.what == "fact extra"
    assert isinstance(without_agent, ViewDifference)
    await run(ACCEPT_LOSS)
    assert isinstance(run.found[-1], InPlace)
    assert await run.setup.agents() == []


async def test_a_running_job_without_its_start_is_refused_unless_accepted(run: Run) -> None:
    await owned(run.setup, builders.started(10, 7))
    run.setup.kafka.begins = {**run.setup.kafka.begins, Topic.JOB_LIFECYCLE: 1}
    with pytest.raises(RebuildLossError, match="no longer has the start of 1 jobs"):
        await run(PUT_IN_PLACE)
    assert await run.setup.agents() == [5]
    await run(ACCEPT_LOSS)
    raw: Any = await run.setup.redis.get(schema.record_key(digest("token-9")))
    assert schema.ViewRecord.decode(raw).status == 401


async def test_a_lost_job_is_not_expired_by_a_wrong_clock_of_redis(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owned(run.setup, builders.started(10, 7))
    run.setup.kafka.begins = {**run.setup.kafka.begins, Topic.JOB_LIFECYCLE: 1}

    async def ahead(*_: object) -> int:
        return 2 * builders.NOW

    monkeypatch.setattr(redis_batch, "server_time", ahead)
    with pytest.raises(RebuildLossError, match="no longer has the start of 1 jobs"):
        await run(PUT_IN_PLACE)


async def test_other_rules_than_the_workers_are_refused(run: Run) -> None:
    await owned(run.setup)
    await run.setup.redis.hset(schema.partition_key(PARTITION), "minimum_level", "40")
    with pytest.raises(DifferentRulesError):
        await run(PUT_IN_PLACE)


async def test_other_sources_than_the_workers_are_refused_by_what_stamps(run: Run) -> None:
    """A stamp that waits for no source would make answers fresh that are not."""
    await owned(run.setup)
    await run.setup.redis.hset(schema.partition_key(PARTITION), "sources", "hr,gitlab")
    with pytest.raises(DifferentRulesError, match="gitlab,hr there, none here"):
        await run(PUT_IN_PLACE)
    assert (await run(DRY_RUN)).facts == 0
    async with run.setup.waiting_for("gitlab", "hr"):
        await run(PUT_IN_PLACE)
    assert isinstance(run.found[-1], InPlace)


async def test_events_that_are_applied_between_two_looks_are_not_differences(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owned(run.setup)
    await corrupt(run.setup)
    look = comparison.Verifier.look

    async def mended(self: Any, partition: int) -> Any:
        found = await look(self, partition)
        await put_right(run.setup)
        return found

    monkeypatch.setattr(comparison.Verifier, "look", mended)
    assert (await run(DRY_RUN)).facts == 0


async def put_right(setup: Setup) -> None:
    raw: Any = await setup.redis.hget(FACTS, "3/member/group:3/user:1/direct")
    if b'"level":50' in raw:
        await corrupt(setup, b'"level":50', b'"level":30')


async def test_a_claim_that_others_take_again_and_again_is_given_up(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owned(run.setup)
    tries: list[int] = []

    async def overtaken(*_: Any) -> bool:
        tries.append(1)
        return True

    monkeypatch.setattr(takeover, "serve", overtaken)
    with pytest.raises(RebuildFailedError, match="partition 0 was claimed by workers"):
        await run(PUT_IN_PLACE)
    assert len(tries) == rebuild_run.ATTEMPTS


async def test_only_a_few_losses_are_listed(run: Run) -> None:
    losses = {partition: ["gone"] for partition in range(7)}
    with pytest.raises(RebuildLossError, match="partition 4: gone; and 2 more"):
        rebuild_run._refuse_losses(losses, PUT_IN_PLACE)
    rebuild_run._refuse_losses(losses, DRY_RUN)
    rebuild_run._refuse_losses(losses, ACCEPT_LOSS)


class SlowRun:
    """Takes the place of a partition's rebuild; all comparisons are under way at once or wait."""

    comparing = most = 0
    log: ClassVar[list[str]] = []
    broken: int | None = None

    def __init__(self, _clients: Any, partition: int, _state: Any, _counts: Counts) -> None:
        self.partition = partition
        self.found = [Loss(partition=partition, reason="found")]

    async def compare(self, _losses: list[str], _reading: Any) -> None:
        SlowRun.comparing += 1
        SlowRun.most = max(SlowRun.most, SlowRun.comparing)
        # The first ones take the longest.
        await asyncio.sleep(0.05 / (1 + self.partition))
        SlowRun.comparing -= 1
        if self.partition == self.broken:
            raise RebuildLossError(f"partition {self.partition} is broken")

    async def put_in_place(self, _options: Options) -> InPlace:
        SlowRun.log.append(f"{self.partition} begins")
        await asyncio.sleep(0.001)
        SlowRun.log.append(f"{self.partition} ends")
        return InPlace(partition=self.partition, facts=0, claimed=True)


@pytest.fixture
def slow_runs(monkeypatch: pytest.MonkeyPatch) -> type[SlowRun]:
    async def nothing(*_: object) -> list[str]:
        return []

    monkeypatch.setattr(rebuild_run, "PartitionRun", SlowRun)
    monkeypatch.setattr(rebuilt_facts, "find_losses", nothing)
    for name, value in {"comparing": 0, "most": 0, "log": [], "broken": None}.items():
        monkeypatch.setattr(SlowRun, name, value)
    return SlowRun


async def test_partitions_are_compared_together_and_reported_in_their_order(
    run: Run, slow_runs: type[SlowRun]
) -> None:
    """A dry run of 16 partitions waited a second for each, one after the other."""
    done: list[int] = []
    output = Output(run.found.append, run._reading, done.append)
    await rebuild_run.rebuild_partitions(clients(run.setup), range(20), DRY_RUN, output)
    assert slow_runs.most == rebuild_run.TOGETHER > 4
    assert [found.partition for found in run.found] == list(range(20))  # type: ignore[union-attr]
    assert done == [1] * 20
    assert slow_runs.log == []


async def test_topics_are_checked_for_losses_together_before_anything_is_read(
    run: Run, slow_runs: type[SlowRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check waits up to a second, so 1,000 partitions took a quarter of an hour."""
    asking: set[int] = set()
    most, gate = 0, asyncio.Event()
    checked: list[int] = []

    async def find_losses(_reader: Any, partition: int, _state: Any) -> list[str]:
        nonlocal most
        asking.add(partition)
        most = max(most, len(asking))
        if len(asking) == rebuild_run.TOGETHER:
            gate.set()
        await gate.wait()
        asking.discard(partition)
        return []

    monkeypatch.setattr(rebuilt_facts, "find_losses", find_losses)
    output = Output(run.found.append, run._reading, check=checked.append)
    await rebuild_run.rebuild_partitions(clients(run.setup), range(20), DRY_RUN, output)
    assert most == rebuild_run.TOGETHER
    assert checked == [1] * 20


async def test_partitions_are_put_in_place_one_after_the_other(
    run: Run, slow_runs: type[SlowRun]
) -> None:
    """Each claim needs the whole process, or a worker claims again before it is written."""
    output = Output(run.found.append, run._reading)
    await rebuild_run.rebuild_partitions(clients(run.setup), range(12), PUT_IN_PLACE, output)
    assert slow_runs.log == [f"{n} {what}" for n in range(12) for what in ("begins", "ends")]
    assert slow_runs.most == rebuild_run.TOGETHER


async def test_the_first_partition_that_fails_ends_the_rebuild(
    run: Run, slow_runs: type[SlowRun]
) -> None:
    slow_runs.broken = 3
    output = Output(run.found.append, run._reading)
    with pytest.raises(RebuildLossError, match="partition 3 is broken"):
        await rebuild_run.rebuild_partitions(clients(run.setup), range(12), PUT_IN_PLACE, output)
    assert slow_runs.log[-1] == "2 ends"
