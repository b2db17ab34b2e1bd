"""From Redis to the explanation and to what is inspected: never older than what is served."""

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from redis.exceptions import AuthenticationError, ConnectionError
from typer.testing import CliRunner, Result

from projector.cli import inspect_command
from projector.cli.main import app
from projector.clients import access_errors
from projector.clients import redis_client as connections
from projector.clients.redis_servers import RedisServers
from projector.config.settings import Settings
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection, compute_view
from projector.errors import (
    NotReadyError,
    PartitionCountError,
    SnapshotError,
    TooManyFactsError,
    UnknownJobError,
)
from projector.events.model import EVENT_TYPES, Topic
from projector.events.partitioning import partition_of
from projector.explain import job as explain
from projector.explain.model import ExplanationReport
from projector.operators import explain as inquiry
from projector.operators import inspect, snapshot
from projector.store import schema
from projector.store.partition_store import PartitionStore
from projector.store.schema import ViewRecord
from tests import builders
from tests.builders import digest

PARTITIONS = 2
HERE, THERE = "3", "5"
COMPANY = [
    builders.group(3),
    builders.project(7, 3),
    builders.member(1, "developer", group_id=3),
    builders.agent(5, 7),
    builders.agent(6, 8),
]
STARTED = builders.started(9, 7, expires_at="2098-01-01T00:00:00Z")
SETTINGS = Settings()
REPOSITORY = Path(__file__).parents[3]


def test_the_two_namespaces_lie_in_different_partitions() -> None:
    assert partition_of(HERE, PARTITIONS) != partition_of(THERE, PARTITIONS)


class World:
    """Two partitions whose owners write what their events lead to, into a Redis that is shared."""

    def __init__(self, server: fakeredis.FakeServer) -> None:
        self.server = server
        self.redis = self.client()
        self.offsets = dict.fromkeys(Topic, 0)
        self.stores = [
            PartitionStore(self.redis, RedisServers(), p, f"me-{p}") for p in range(PARTITIONS)
        ]
        policy = Policy(PARTITIONS, 30, 7 * 24 * 3600 * 1000)
        self.projections = [Projection(p, policy) for p in range(PARTITIONS)]

    def client(self) -> Any:
        return fakeredis.FakeAsyncRedis(server=self.server)

    async def claim(self) -> None:
        for store in self.stores:
            await store.claim(PARTITIONS)

    async def apply(self, *messages: dict[str, Any], views_too: bool = True) -> None:
        now = await self.stores[0].now()
        touched = set()
        for message in messages:
            partition = partition_of(message["partitionkey"], PARTITIONS)
            topic = EVENT_TYPES[message["type"]].topic
            record = builders.record(
                message, self.offsets[topic], partition=partition, timestamp=now
            )
            self.offsets[topic] += 1
            assert self.projections[partition].apply(record) is None
            touched.add(partition)
        for partition in touched:
            await self.write(partition, views_too=views_too)

    async def write(self, partition: int, *, views_too: bool) -> None:
        projection, store = self.projections[partition], self.stores[partition]
        now = await store.now()
        changes = projection.take_changes(now)
        if views_too:
            await store.write_views(changes.views)
        await store.checkpoint(self.offsets, changes.facts, len(projection.facts))
        await store.stamp(now)

    async def ask(self, job: int = 9, agent: int | None = None, **more: Any) -> ExplanationReport:
        return await inquiry.explain_job(self.redis, SETTINGS, job, agent, **more)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.05)
    monkeypatch.setattr(snapshot, "PAUSE_S", 0.01)
    monkeypatch.setattr(inquiry, "PAUSE_S", 0.01)


@pytest.fixture
async def world() -> World:
    world = World(fakeredis.FakeServer())
    await world.claim()
    await world.apply(*COMPANY, STARTED)
    return world


async def test_an_explanation_agrees_with_the_view_that_it_explains(world: World) -> None:
    found = await world.ask(9, 5)
    assert found.explanation.sentence.startswith("Job 9 may use agent 5: ")
    assert found.agrees
    assert found.notes == []
    here = partition_of(HERE, PARTITIONS)
    epoch, revision = world.stores[here].version
    assert found.view is not None
    assert (found.view.status, found.view.version) == (200, f"{here}.{epoch}.{revision}")
    assert found.explanation.partition == here


async def test_it_waits_for_the_facts_that_the_view_comes_from(world: World) -> None:
    here = partition_of(HERE, PARTITIONS)
    store, projection = world.stores[here], world.projections[here]
    projection.apply(builders.record(builders.removed("agent", 5), 99, partition=here))
    changes = projection.take_changes(await store.now())
    await store.write_views(changes.views)
    with pytest.raises(SnapshotError, match="behind its views"):
        await world.ask()
    await store.checkpoint(world.offsets, changes.facts, len(projection.facts))
    found = await world.ask(9, 5)
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
    found = await world.ask(9, 5)
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
        await world.ask()


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
        await world.ask()
    assert calls == inquiry.TRIES


@pytest.mark.parametrize("body", [b'{"allowed_agents":[]}', b""])
async def test_a_stored_view_that_differs_is_said_to(world: World, body: bytes) -> None:
    key = schema.token_record_key(digest("token-9"))
    record = ViewRecord.decode(await world.redis.get(key))
    await world.redis.set(key, record._replace(body=body).encode(), keepttl=True)
    found = await world.ask()
    assert not found.agrees
    assert any("differs from this explanation: see `projector verify`" in n for n in found.notes)


async def test_a_record_that_is_gone_too_early_differs(world: World) -> None:
    await world.redis.delete(schema.token_record_key(digest("token-9")))
    found = await world.ask()
    assert (found.view, found.agrees) == (None, False)
    assert found.explanation.status == 200


async def test_a_stale_partition_is_noted(world: World) -> None:
    here = partition_of(HERE, PARTITIONS)
    long_ago = await world.stores[here].now() - 37_000
    await world.redis.hset(schema.partition_key(here), "stamp", long_ago)
    found = await world.ask()
    assert found.age is not None
    assert found.age >= 37
    assert any("lookups get 503 until it is fresh again" in note for note in found.notes)
    await world.redis.hdel(schema.partition_key(here), "stamp")
    assert "was never fresh" in (await world.ask()).notes[0]


async def test_a_job_whose_keys_are_gone_is_found_by_its_facts(world: World) -> None:
    await world.apply(builders.removed("job", 9))
    await world.redis.delete(schema.job_token_key(9), schema.token_record_key(digest("token-9")))
    found = await world.ask()
    assert found.explanation.sentence == "Job 9 gets 401: the job has finished"


async def test_a_job_that_ended_before_its_start_came_is_explained(world: World) -> None:
    await world.apply(builders.removed("job", 77, root=THERE))
    found = await world.ask(77)
    assert found.explanation.sentence == (
        "Job 77 gets 401: the job has finished, and its start never came"
    )
    assert found.explanation.partition == partition_of(THERE, PARTITIONS)
    assert found.agrees


async def test_of_several_jobs_with_one_id_the_latest_is_explained_and_the_others_named(
    world: World,
) -> None:
    await world.redis.delete(schema.job_token_key(9))
    other = builders.started(9, 400, token="other", root=THERE, expires_at="2098-01-01T00:00:00Z")
    await asyncio.sleep(0.002)  # Redis's clock has milliseconds
    await world.apply(other)
    await world.redis.delete(schema.job_token_key(9))
    found = await world.ask()
    assert found.explanation.job
    assert found.explanation.job.root == THERE
    here = partition_of(HERE, PARTITIONS)
    assert f"job 9 is also known in partition {here}" in found.notes


async def test_a_job_key_that_leads_to_another_job_is_not_believed(world: World) -> None:
    await world.apply(builders.started(10, 7, token="ten", expires_at="2098-01-01T00:00:00Z"))
    await world.redis.set(schema.job_token_key(9), digest("ten"))
    found = await world.ask()
    assert found.explanation.job
    assert found.explanation.job.id == 9


async def test_what_nobody_knows_is_said_to_be_unknown(world: World) -> None:
    with pytest.raises(UnknownJobError, match="job 12 is not known"):
        await world.ask(12)
    with pytest.raises(UnknownJobError, match="unknown, or it has expired"):
        await inquiry.explain_token(world.redis, SETTINGS, digest("nothing"))
    empty = World(fakeredis.FakeServer())
    with pytest.raises(NotReadyError, match="no worker has run on this database yet"):
        await empty.ask()


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
        world.ask(12),
        inspect.inspect_job(world.redis, 12),
        inspect.inspect_partition(world.redis, 0),
        inspect.inspect_agent(world.redis, 30, 5),
    ):
        with pytest.raises(PartitionCountError, match="is not a number from 1 to 10000; delete it"):
            await asking


async def test_a_record_that_no_fact_justifies_is_named(world: World) -> None:
    key = schema.token_record_key(digest("forged"))
    await world.redis.set(key, await world.redis.get(schema.token_record_key(digest("token-9"))))
    with pytest.raises(UnknownJobError, match="no fact of partition"):
        await inquiry.explain_token(world.redis, SETTINGS, digest("forged"))


@pytest.mark.parametrize("kind", ["another type", "no record", "no digest"])
async def test_whatever_stands_under_the_keys_the_facts_explain_the_job(
    world: World, kind: str
) -> None:
    for key in (schema.job_token_key(9), schema.token_record_key(digest("token-9"))):
        if kind == "another type":
            await world.redis.delete(key)
            await world.redis.hset(key, "a", "b")
        elif kind == "no record" or key == schema.job_token_key(9):
            await world.redis.set(key, b"\x1b[2J")
    assert (await world.ask()).explanation.sentence.startswith("Job 9 may use")


async def test_a_former_token_is_explained_beside_the_current_one(world: World) -> None:
    again = builders.started(9, 7, token="second", expires_at="2098-01-01T00:00:00Z")
    await world.apply(again)
    former = await inquiry.explain_token(world.redis, SETTINGS, digest("token-9"))
    assert (former.explanation.rule, former.agrees) == ("token_replaced", True)
    assert (await world.ask()).explanation.status == 200


async def test_no_more_facts_are_read_than_the_caller_allows(world: World) -> None:
    assert (await world.ask(most_facts=6)).agrees
    with pytest.raises(TooManyFactsError, match="`projector explain`"):
        await world.ask(most_facts=5)
    await world.redis.delete(schema.job_token_key(9))
    with pytest.raises(TooManyFactsError):
        await world.ask(most_facts=5)
    await world.redis.hset(schema.partition_key(partition_of(HERE, PARTITIONS)), "facts", -1)
    with pytest.raises(SnapshotError, match="not written to its end"):
        await world.ask(most_facts=6)


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
    await world.ask(9, 5, most_facts=10)
    await world.redis.delete(schema.job_token_key(9))
    used.discard("del")
    await world.ask(9, 5, most_facts=10)
    assert used <= allowed["api"]
    await inspect.inspect_job(world.redis, 9)
    await inspect.inspect_partition(world.redis, 0)
    await inspect.inspect_agent(world.redis, 30, 5)
    assert used <= allowed["operator"]


async def test_decoding_and_judging_leave_the_event_loop_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    work = {
        (snapshot, "_assembled"): snapshot._assembled,
        (explain, "explain_job"): explain.explain_job,
    }
    for (module, name), function in work.items():

        def noted(*args: Any, function: Any = function) -> Any:
            threads.append(threading.get_ident())
            return function(*args)

        monkeypatch.setattr(module, name, noted)
    await world.ask()
    assert len(threads) == 2
    assert threading.get_ident() not in threads


# commands


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        connections, "create_redis", lambda settings: fakeredis.FakeAsyncRedis(server=server)
    )

    async def fill() -> None:
        world = World(server)
        await world.claim()
        await world.apply(*COMPANY, STARTED)

    asyncio.run(fill())
    return server


def run(*arguments: str, stdin: str = "") -> Result:
    result = CliRunner().invoke(app, arguments, input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.usefixtures("shared")
def test_explain_begins_with_the_answer_and_exits_with_it() -> None:
    allowed, refused, all_of_them = (run("explain", "9", *a) for a in (["5"], ["6"], []))
    assert (allowed.exit_code, refused.exit_code, all_of_them.exit_code) == (0, 1, 0)
    assert allowed.stdout.splitlines()[0] == (
        "Job 9 may use agent 5: it is configured in project 7, the job's own"
    )
    assert refused.stdout.startswith("Job 9 may not use agent 6: it is configured in project 8")
    assert all_of_them.stdout.startswith("Job 9 may use 1 of the 1 agent that reaches its project")
    here = partition_of(HERE, PARTITIONS)
    assert f"[agent-config/{here}:0 of " in allowed.stdout


@pytest.mark.usefixtures("shared")
def test_explain_as_json_is_one_object_with_the_documented_names() -> None:
    found = json.loads(run("explain", "9", "6", "--json").stdout)
    assert found.keys() == set(ExplanationReport.__struct_fields__)
    assert found["explanation"]["agent"]["rule"] == "not_granted"
    assert found["explanation"]["groups"][0]["event"]["topic"] == "membership"


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "12"), ("explain", "0"), ("explain", str(2**63)), ("explain", "9", "-1"),
        ("explain", "nine"), ("inspect", "partition", "2"), ("inspect", "partition", "-1"),
        ("inspect", "token", "--sha256", "12"), ("inspect", "job", str(2**63)),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_there_or_no_id_exits_with_2_and_a_sentence(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConnectionError("gone"), 3, "cannot be reached: gone"),
        (AuthenticationError("WRONGPASS"), 2, access_errors.redis_reason(AuthenticationError())),
    ],
    ids=["outage", "refused"],
)
@pytest.mark.parametrize(
    "arguments", [("explain", "9"), ("inspect", "job", "9"), ("status",)], ids=" ".join
)
def test_an_outage_names_redis_and_not_kafka(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: Exception,
    code: int,
    says: str,
) -> None:
    class Away(fakeredis.FakeAsyncRedis):
        async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    monkeypatch.setattr(connections, "create_redis", lambda settings: Away())
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stderr == f"Redis at redis://127.0.0.1:6379/0 {says}\n"


@pytest.mark.usefixtures("shared")
def test_a_token_is_read_from_standard_input_and_never_shown() -> None:
    result = run("inspect", "token", "--json", stdin="token-9\n")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["sha256"] == digest("token-9")
    assert found["record"]["body"]["job"] == {"id": 9}
    assert [fact["key"] for fact in found["facts"]] == ["3/job/9"]
    assert "token-9" not in result.output
    by_digest = run("inspect", "token", "--sha256", digest("token-9").upper())
    assert by_digest.stdout.splitlines()[0] == "The token"


@pytest.mark.usefixtures("shared")
def test_a_token_among_the_arguments_is_refused_and_not_repeated() -> None:
    for more in (["glcbt-secret"], ["glcbt-secret", "x"]):
        result = run("inspect", "token", *more, stdin="token-9\n")
        assert result.exit_code == 2
        assert "never an argument" in result.stderr
        assert "glcbt-secret" not in result.output


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("given", ["", "a b", "t\x1bn", "x" * 8193])
def test_what_is_no_token_is_refused_and_not_repeated(given: str) -> None:
    result = run("inspect", "token", stdin=f"{given}\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "visible ASCII" in result.stderr


@pytest.mark.usefixtures("shared")
def test_on_a_terminal_the_token_is_asked_for_and_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "token-9"

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", answer)
    assert inspect_command._digest(None) == digest("token-9")
    assert asked == ["token: "]


@pytest.mark.usefixtures("shared")
def test_a_job_is_shown_with_its_record_and_its_fact() -> None:
    result = run("inspect", "job", "9", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["token"]["sha256"] == digest("token-9")
    assert found["token"]["record"]["status"] == 200
    assert found["facts"][0]["data"]["project"] == 7
    assert found["facts"][0]["event"]["offset"] == 0
    unknown = run("inspect", "job", "99")
    assert unknown.exit_code == 1
    assert unknown.stdout.startswith("Nothing is known about job 99")


def test_a_partition_is_shown_with_what_it_holds(shared: fakeredis.FakeServer) -> None:
    here = partition_of(HERE, PARTITIONS)
    letter = f"*/dead-letter/{Topic.MEMBERSHIP}:41"

    async def add() -> None:
        redis: Any = fakeredis.FakeAsyncRedis(server=shared)
        await redis.hset(schema.facts_key(here), letter, "{}")
        await redis.hincrby(schema.partition_key(here), "facts", 1)

    asyncio.run(add())
    found = json.loads(run("inspect", "partition", str(here), "--json").stdout)
    kinds = {"agent": 2, "group": 1, "job": 1, "member": 1, "project": 1}
    assert (found["facts"], found["live_tokens"], found["letters_waiting"]) == (kinds, 1, 1)
    assert found["offsets"] == {"membership": 3, "agent-config": 2, "job-lifecycle": 1}
    assert found["owner"] == f"me-{here}"
    text = run("inspect", "partition", str(here)).stdout
    assert "checkpoint  whole" in text
    assert "letters     1 wait for Kafka" in text


def test_an_agent_is_shown_with_the_live_jobs_that_may_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        connections, "create_redis", lambda settings: fakeredis.FakeAsyncRedis(server=server)
    )
    asyncio.run(_jobs(server))
    found = json.loads(run("inspect", "agent", "5", "--json").stdout)
    assert [fact["key"] for fact in found["facts"]] == ["3/agent/5"]
    assert (found["jobs"], found["jobs_total"]) == ([9], 1)
    other = json.loads(run("inspect", "agent", "6", "--json").stdout)
    assert (other["jobs"], other["jobs_total"]) == ([], 0)
    assert run("inspect", "agent", "99").exit_code == 1
    here = str(partition_of(HERE, PARTITIONS))
    held = json.loads(run("inspect", "partition", here, "--json").stdout)
    assert (held["facts"]["job"], held["live_tokens"]) == (3, 2)


async def _jobs(server: fakeredis.FakeServer) -> None:
    """A job that may use agent 5, one whose user may not, and one that has finished."""
    world = World(server)
    await world.claim()
    others = [
        builders.started(job, 7, user, expires_at="2098-01-01T00:00:00Z")
        for job, user in ((10, 2), (11, 1))
    ]
    await world.apply(*COMPANY, STARTED, *others, builders.removed("job", 11))


async def _poison(server: fakeredis.FakeServer) -> None:
    world = World(server)
    await world.claim()
    evil = "\x1b[2Jevil\u202e\x07\x7f"
    await world.apply(
        builders.group(3, path=evil),
        builders.project(7, 3, path=evil),
        builders.event("agent.set", {"id": 5, "name": evil, "project_id": 7}),
        builders.configured(5, projects=[{"id": 7, evil: evil}]),
        builders.event("member.set", {"user_id": 1, "group_id": 3, "role": "owner", "via": evil}),
        builders.started(9, 7, expires_at="2098-01-01T00:00:00Z"),
    )


@pytest.mark.parametrize("flag", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "arguments",
    [("explain", "9", "5"), ("inspect", "job", "9"), ("inspect", "agent", "5"),
     ("inspect", "partition", "0"), ("inspect", "partition", "1")],
    ids=" ".join,
)  # fmt: skip
def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], flag: list[str]
) -> None:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        connections, "create_redis", lambda settings: fakeredis.FakeAsyncRedis(server=server)
    )
    asyncio.run(_poison(server))
    result = run(*arguments, *flag)
    assert all(line.isprintable() for line in result.stdout.splitlines())


def test_the_expected_view_is_the_rules_own() -> None:
    projection = Projection(0, Policy(1, 30, 1000))
    feed = builders.Feed()
    for message in (*COMPANY, STARTED):
        projection.apply(feed(message))
    token = digest("token-9")
    assert compute_view(projection.facts, token, 30, builders.NOW) == projection.view(
        token, builders.NOW
    )
    assert projection.facts.job_of_token(token) == Key("3/job/9")
