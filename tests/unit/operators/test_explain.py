"""An explanation is never older than the record that lookups get."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from projector.config.settings import Settings
from projector.domain.decision import ViewRules
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection, compute_view
from projector.errors import (
    NotReadyError,
    PartitionCountError,
    SnapshotError,
    TooManyFactsError,
    UnknownJobError,
)
from projector.explain import job as job_explanation
from projector.explain.model import ExplanationReport
from projector.operators import explain, inspect, snapshot
from projector.store import schema
from projector.store.schema import ViewRecord
from tests import builders
from tests.builders import digest
from tests.unit.operators import worlds
from tests.unit.operators.worlds import COMPANY, FOREVER, HOME, OTHER, OTHER_ROOT, STARTED, World

SETTINGS = Settings()
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
async def world() -> World:
    return await worlds.filled()


async def ask(
    world: World, job: int = 9, agent: int | None = None, **more: Any
) -> ExplanationReport:
    return await explain.explain_job(world.redis, SETTINGS, job, agent, **more)


async def test_an_explanation_agrees_with_the_view_that_it_explains(world: World) -> None:
    found = await ask(world, 9, 5)
    assert found.explanation.sentence.startswith("Job 9 may use agent 5: ")
    assert found.agrees
    assert found.notes == []
    epoch, revision = world.home.store.version
    assert found.view is not None
    assert (found.view.status, found.view.version) == (200, f"{HOME}.{epoch}.{revision}")
    assert found.explanation.partition == HOME


async def test_it_waits_for_the_facts_that_the_view_comes_from(world: World) -> None:
    home = world.home
    home.projection.apply(builders.record(builders.removed("agent", 5), 99, partition=HOME))
    changes = builders.take_changes(home.projection, await home.store.now())
    await home.store.write_views(changes.views)
    with pytest.raises(SnapshotError, match="behind its views"):
        await ask(world)
    await home.store.checkpoint(home.next, changes.facts, len(home.projection.facts))
    found = await ask(world, 9, 5)
    assert found.agrees
    assert found.explanation.agent
    assert found.explanation.agent.rule == "agent_removed"


async def test_what_changes_while_it_is_read_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = snapshot.read_snapshot, 0

    async def then_the_owner_goes_on(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        found = await whole(*args)
        if calls == 1:
            await world.apply(builders.removed("agent", 5))
        return found

    monkeypatch.setattr(snapshot, "read_snapshot", then_the_owner_goes_on)
    found = await ask(world, 9, 5)
    assert calls == 2
    assert found.agrees
    assert found.explanation.agent
    assert found.explanation.agent.verdict == "refused"


async def test_a_view_that_is_always_newer_is_not_said_to_differ(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = snapshot.read_snapshot, 0

    async def then_the_owner_goes_on(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        found = await whole(*args)
        await world.apply(builders.agent(5, 7) if calls % 2 == 0 else builders.removed("agent", 5))
        return found

    monkeypatch.setattr(snapshot, "read_snapshot", then_the_owner_goes_on)
    with pytest.raises(SnapshotError, match="change faster"):
        await ask(world)


async def test_a_token_in_doubt_is_read_again_and_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = snapshot.read_snapshot, 0

    async def doubtful(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return (await whole(*args))._replace(in_doubt=frozenset({digest("token-9")}))

    monkeypatch.setattr(snapshot, "read_snapshot", doubtful)
    with pytest.raises(SnapshotError, match="change faster"):
        await ask(world)
    assert calls == explain.TRIES


@pytest.mark.parametrize("body", [b'{"allowed_agents":[]}', b""])
async def test_a_stored_view_that_differs_is_said_to(world: World, body: bytes) -> None:
    key = schema.record_key(digest("token-9"))
    record = ViewRecord.decode(await world.redis.get(key))
    await world.redis.set(key, record._replace(body=body).encode(), keepttl=True)
    found = await ask(world)
    assert not found.agrees
    assert any("differs from this explanation: see `projector verify`" in n for n in found.notes)


async def test_a_record_that_is_gone_too_early_differs(world: World) -> None:
    await world.redis.delete(schema.record_key(digest("token-9")))
    found = await ask(world)
    assert (found.view, found.agrees) == (None, False)
    assert found.explanation.status == 200


async def test_a_stale_partition_is_noted(world: World) -> None:
    long_ago = await world.home.store.now() - 37_000
    await world.redis.hset(schema.partition_key(HOME), "stamp", long_ago)
    found = await ask(world)
    assert found.age is not None
    assert found.age >= 37
    assert any("lookups get 503 until it is fresh again" in note for note in found.notes)
    await world.redis.hdel(schema.partition_key(HOME), "stamp")
    assert "was never fresh" in (await ask(world)).notes[0]


async def test_a_job_whose_keys_are_gone_is_found_by_its_facts(world: World) -> None:
    await world.apply(builders.removed("job", 9))
    await world.redis.delete(schema.job_key(9), schema.record_key(digest("token-9")))
    found = await ask(world)
    assert found.explanation.sentence == "Job 9 gets 401: the job has finished"


async def test_a_job_that_ended_before_its_start_came_is_explained(world: World) -> None:
    await world.apply(builders.removed("job", 77, root=OTHER_ROOT))
    found = await ask(world, 77)
    assert found.explanation.sentence == (
        "Job 77 gets 401: the job has finished, and its start never came"
    )
    assert found.explanation.partition == OTHER
    assert found.agrees


async def test_of_several_jobs_with_one_id_the_latest_is_explained_and_the_others_named(
    world: World,
) -> None:
    await world.redis.delete(schema.job_key(9))
    other = builders.started(9, 400, token="other", root=OTHER_ROOT, expires_at=FOREVER)
    await asyncio.sleep(0.002)  # Redis's clock has milliseconds
    await world.apply(other)
    await world.redis.delete(schema.job_key(9))
    found = await ask(world)
    assert found.explanation.job
    assert found.explanation.job.root == OTHER_ROOT
    assert f"job 9 is also known in partition {HOME}" in found.notes


async def test_a_job_key_that_leads_to_another_job_is_not_believed(world: World) -> None:
    await world.apply(builders.started(10, 7, token="ten", expires_at=FOREVER))
    await world.redis.set(schema.job_key(9), digest("ten"))
    found = await ask(world)
    assert found.explanation.job
    assert found.explanation.job.id == 9


async def test_what_nobody_knows_is_said_to_be_unknown(world: World) -> None:
    with pytest.raises(UnknownJobError, match="job 12 is not known"):
        await ask(world, 12)
    empty = World()
    with pytest.raises(NotReadyError, match="no worker has run on this database yet"):
        await ask(empty)


@pytest.mark.parametrize("kind", ["another type", "no number"])
async def test_a_key_without_a_number_of_partitions_is_not_a_missing_one(
    world: World, kind: str
) -> None:
    await world.redis.delete(schema.PARTITIONS_KEY)
    if kind == "another type":
        await world.redis.rpush(schema.PARTITIONS_KEY, "2")
    else:
        await world.redis.set(schema.PARTITIONS_KEY, "abc")
    for asking in (
        ask(world, 12),
        inspect.inspect_job(world.redis, 12),
        inspect.inspect_partition(world.redis, 0),
        inspect.inspect_agent(world.redis, ViewRules(30), 5),
    ):
        with pytest.raises(
            PartitionCountError,
            match="is not a number from 1 to 10000; a running worker writes it again",
        ):
            await asking


async def test_a_record_that_no_fact_justifies_is_named(world: World) -> None:
    key = schema.record_key(digest("forged"))
    await world.redis.set(key, await world.redis.get(schema.record_key(digest("token-9"))))
    await world.redis.set(schema.job_key(12), digest("forged"))
    with pytest.raises(UnknownJobError, match="no fact of partition"):
        await ask(world, 12)


@pytest.mark.parametrize("kind", ["another type", "no record", "no digest"])
async def test_whatever_stands_under_the_keys_the_facts_explain_the_job(
    world: World, kind: str
) -> None:
    for key in (schema.job_key(9), schema.record_key(digest("token-9"))):
        if kind == "another type":
            await world.redis.delete(key)
            await world.redis.hset(key, "a", "b")
        elif kind == "no record" or key == schema.job_key(9):
            await world.redis.set(key, b"\x1b[2J")
    assert (await ask(world)).explanation.sentence.startswith("Job 9 may use")


async def test_a_former_token_is_explained_beside_the_current_one(world: World) -> None:
    again = builders.started(9, 7, token="second", expires_at=FOREVER)
    await world.apply(again)
    assert (await ask(world)).explanation.status == 200
    await world.redis.set(schema.job_key(9), digest("token-9"))
    former = await ask(world)
    assert (former.explanation.rule, former.agrees) == ("token_replaced", True)


async def test_no_more_facts_are_read_than_the_caller_allows(world: World) -> None:
    assert (await ask(world, most_facts=6)).agrees
    with pytest.raises(TooManyFactsError, match="`projector explain`"):
        await ask(world, most_facts=5)
    await world.redis.delete(schema.job_key(9))
    with pytest.raises(TooManyFactsError):
        await ask(world, most_facts=5)
    await world.redis.hset(schema.partition_key(HOME), "facts", -1)
    with pytest.raises(SnapshotError, match="not written to its end"):
        await ask(world, most_facts=6)


async def test_it_reads_with_no_more_than_what_the_user_of_the_api_may_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = (REPOSITORY / "deploy" / "redis" / "users.acl").read_text().splitlines()
    allowed = {
        user: {word[1:] for word in line.split() if word.startswith("+")}
        for line in users
        for user in [line.split()[1]]
    }
    used: set[str] = set()
    execute = fakeredis.FakeAsyncRedis.execute_command

    async def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        used.add(str(args[0]).lower())
        return await execute(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(fakeredis.FakeAsyncRedis, "execute_command", noted)
    await ask(world, 9, 5, most_facts=10)
    await world.redis.delete(schema.job_key(9))
    used.discard("del")
    await ask(world, 9, 5, most_facts=10)
    assert used <= allowed["api"]
    await inspect.inspect_job(world.redis, 9)
    await inspect.inspect_partition(world.redis, 0)
    await inspect.inspect_agent(world.redis, ViewRules(30), 5)
    assert used <= allowed["operator"]


async def test_decoding_and_judging_leave_the_event_loop_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    work = {
        (snapshot, "_index"): snapshot._index,
        (job_explanation, "explain_job"): job_explanation.explain_job,
    }
    for (module, name), function in work.items():

        def noted(*args: Any, function: Any = function) -> Any:
            threads.append(threading.get_ident())
            return function(*args)

        monkeypatch.setattr(module, name, noted)
    await ask(world)
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_the_expected_view_is_the_rules_own() -> None:
    projection = Projection(0, Policy(1, 30, 1000))
    feed = builders.Feed()
    for message in (*COMPANY, STARTED):
        projection.apply(feed(message))
    token = digest("token-9")
    assert compute_view(projection.facts, token, ViewRules(30), builders.NOW) == projection.view(
        token, builders.NOW
    )
    assert projection.facts.job_of_view(token) == Key("3/job/9")


# jobs without a digest

SIGNED = builders.started(12, 7, token=None, expires_at=FOREVER)


async def test_a_job_without_a_digest_is_explained_by_the_record_under_its_id(world: World) -> None:
    await world.apply(SIGNED)
    found = await ask(world, 12, 5)
    assert found.explanation.sentence.startswith("Job 12 may use agent 5: ")
    assert found.view
    assert (found.view.status, found.agrees, found.notes) == (200, True, [])
    await world.apply(builders.removed("job", 12))
    ended = await ask(world, 12)
    assert ended.view
    assert (ended.explanation.rule, ended.view.status, ended.agrees) == ("job_finished", 401, True)


async def test_a_record_that_is_still_there_after_the_job_got_a_digest_is_noted(
    world: World,
) -> None:
    await world.apply(SIGNED)
    before = await world.redis.get(schema.job_key(12))
    await world.apply(builders.started(12, 7, expires_at=FOREVER), builders.removed("agent", 5))
    assert (await ask(world, 12)).notes == []
    await world.redis.set(schema.job_key(12), before)
    found = await ask(world, 12)
    assert (found.explanation.sentence, found.agrees) == (
        "Job 12 may use no agent: none reaches its project", True,
    )  # fmt: skip
    assert found.notes == [
        "allowed-agents:job:12 does not lead to this record, so signed tokens of the job get "
        "another answer: see `projector verify`"
    ]


@pytest.mark.parametrize("held", [b"\x1b[2J", digest("token-9").encode()])
async def test_whatever_the_key_of_a_job_without_a_digest_holds_the_facts_explain_the_job(
    world: World, held: bytes
) -> None:
    await world.apply(SIGNED)
    await world.redis.set(schema.job_key(12), held)
    found = await ask(world, 12)
    assert found.explanation.sentence.startswith("Job 12 may use 1 of the 1 agent")
    assert (found.view, found.agrees, len(found.notes)) == (None, False, 2)


async def test_a_record_under_the_id_of_an_unknown_job_is_named(world: World) -> None:
    record = await world.redis.get(schema.record_key(digest("token-9")))
    await world.redis.set(schema.job_key(13), record)
    with pytest.raises(UnknownJobError, match=f"no fact of partition {HOME} justifies it"):
        await ask(world, 13)
