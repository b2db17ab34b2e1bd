"""Every command reads a projection of the version before views by job id as it is."""

import json
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import pytest
from msgspec import UNSET, Struct, UnsetType

from projector.domain import fact_keys
from projector.domain.entities import ENTITY_KINDS, DigestStart
from projector.domain.fact_keys import Key
from projector.domain.facts import Fact, decode_fact, encode_fact
from projector.domain.projection import Policy, Projection
from projector.events.model import JobEnvironment
from projector.operators.rebuild import rebuilt_facts
from tests import builders
from tests.builders import digest
from tests.unit.cli import former_version
from tests.unit.cli.former_version import EVENTS, FACTS, NINE, SECOND
from tests.unit.cli.runner import run, written
from tests.unit.operators.worlds import HOME


@pytest.fixture(autouse=True)
def redis(server: fakeredis.FakeServer) -> Any:
    redis = fakeredis.FakeRedis(server=server)
    former_version.write(redis)
    return redis


def test_verify_finds_no_difference() -> None:
    result = run("verify")
    assert (result.exit_code, result.stdout) == (
        0,
        "4 tokens compared (2 live): 0 differ (0 over-grants)\n",
    )


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ("9", "Job 9 may use 1 of the 1 agent that reaches its project"),
        ("10", "Job 10 gets 401: the job has finished"),
        ("11", "Job 11 may use 1 of the 1 agent that reaches its project"),
    ],
)
def test_explain_agrees_with_every_record(job: str, sentence: str) -> None:
    found = json.loads(run("explain", job, "--json").stdout)
    assert (found["explanation"]["sentence"], found["agrees"]) == (sentence, True)
    assert found["notes"] == []


def test_inspect_shows_jobs_tokens_agents_and_partitions() -> None:
    job = json.loads(run("inspect", "job", "11", "--json").stdout)
    assert (job["job_key"], job["token"]["sha256"]) == ("digest", SECOND)
    assert [fact["key"] for fact in job["facts"]] == ["3/job/11"]
    token = json.loads(run("inspect", "token", "--json", stdin="token-9\n").stdout)
    assert (token["sha256"], token["record"]["status"]) == (NINE, 200)
    former = json.loads(run("inspect", "token", "--sha256", digest("first"), "--json").stdout)
    assert [fact["key"] for fact in former["facts"]][1:] == [f"3/token/{digest('first')}"]
    agent = json.loads(run("inspect", "agent", "5", "--json").stdout)
    assert agent["jobs"] == [9, 11]
    partition = json.loads(run("inspect", "partition", str(HOME), "--json").stdout)
    assert (partition["checkpoint"], partition["live_tokens"]) == (len(FACTS), 2)


def test_audit_finds_no_difference(tmp_path: Path) -> None:
    ended = (digest("first"), digest("token-10"))
    exported = [
        event for event in EVENTS
        if event["type"] != "job.finished" and event["data"].get("token_sha256") not in ended
    ]  # fmt: skip
    lines = [json.dumps(event) + "\n" for event in exported]
    assert run("audit", written(tmp_path, *lines)).exit_code == 0


def test_the_facts_that_a_rebuild_computes_are_these() -> None:
    projection, feed = Projection(HOME, Policy(2, 30, 604_800_000)), builders.Feed()
    for event in EVENTS:
        record = feed(event, former_version.THEN)._replace(partition=HOME)
        assert projection.apply(record) is None
    stored = Projection(HOME, Policy(2, 30, 604_800_000))
    builders.restore(stored, {Key(name): raw.encode() for name, raw in FACTS.items()})
    found = rebuilt_facts.changed_facts(stored.facts, projection.facts, former_version.THEN, 10**9)
    assert list(found) == []


class FormerMember(Struct):
    """A membership as the version that wrote every default reads it."""

    level: int
    expires_at: int | None = None


class FormerJob(Struct):
    """A job as that version reads it."""

    digest: str | None
    project: int
    pipeline: int
    user: int
    username: str
    ref_protected: bool
    expires_at: int
    environment: JobEnvironment | None = None
    finished: bool = False
    digest_start: DigestStart | UnsetType = UNSET


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_is_written_such_that_the_former_version_reads_the_same(name: str) -> None:
    """While workers are replaced one by one, the former version takes over new checkpoints."""
    former: dict[str, Any] = {"member": FormerMember, "job": FormerJob}
    kind = fact_keys.kind_of(Key(name))
    data = former.get(kind, ENTITY_KINDS[kind])
    read = msgspec.json.Decoder(Fact[data]).decode  # type: ignore[valid-type]
    raw = FACTS[name].encode()
    rewritten = encode_fact(decode_fact(Key(name), raw))
    assert read(rewritten) == read(raw)
    assert rewritten == raw.replace(b',"expires_at":null', b"").replace(
        b',"environment":null', b""
    ).replace(b',"finished":false', b"")
