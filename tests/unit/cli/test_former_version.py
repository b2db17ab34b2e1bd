"""Every command reads a projection of the version before views by job id as it is."""

import json
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from projector.domain.fact_keys import Key
from projector.domain.facts import decode_fact, encode_fact
from projector.domain.projection import Policy, Projection
from projector.operators import rebuild
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
    assert (result.exit_code, result.stdout) == (0, "4 tokens compared: 0 differ (0 over-grants)\n")


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
    found = rebuild.changed_facts(stored.facts, projection.facts, former_version.THEN, 10**9)
    assert list(found) == []


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_is_written_as_it_was_read(name: str) -> None:
    raw = FACTS[name].encode()
    assert encode_fact(decode_fact(Key(name), raw)) == raw
