"""`projector inspect`: what Redis holds, and no token on the command line."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from projector.cli import inspect_command
from projector.cli.display import inspect_display
from projector.events.model import Topic
from projector.explain.model import EventRef
from projector.operators.inspect import InspectedAgent, InspectedFact
from projector.store import schema
from tests import builders, job_tokens
from tests.builders import digest
from tests.job_tokens import SigningKey
from tests.unit.cli.runner import run
from tests.unit.operators import worlds
from tests.unit.operators.worlds import FOREVER, HOME


@pytest.mark.usefixtures("company")
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


@pytest.mark.usefixtures("company")
def test_a_token_among_the_arguments_is_refused_and_not_repeated() -> None:
    for more in (["glcbt-secret"], ["glcbt-secret", "x"]):
        result = run("inspect", "token", *more, stdin="token-9\n")
        assert result.exit_code == 2
        assert "never an argument" in result.stderr
        assert "glcbt-secret" not in result.output


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize("given", ["", "a b", "t\x1bn", "x" * 8193])
def test_what_is_no_token_is_refused_and_not_repeated(given: str) -> None:
    result = run("inspect", "token", stdin=f"{given}\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "visible ASCII" in result.stderr


@pytest.mark.usefixtures("company")
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
    assert inspect_command._read_token() == "token-9"
    assert asked == ["token: "]


@pytest.mark.usefixtures("company")
def test_a_job_is_shown_with_its_record_and_its_fact() -> None:
    result = run("inspect", "job", "9", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["token"]["sha256"] == digest("token-9")
    assert found["token"]["record"]["status"] == 200
    assert found["facts"][0]["data"]["project"] == 7
    assert found["facts"][0]["event"]["offset"] == 0
    unknown = run("inspect", "job", "99")
    assert unknown.exit_code == run("explain", "99").exit_code == 2
    assert unknown.stdout.startswith("Nothing is known about job 99")


def test_a_partition_is_shown_with_what_it_holds(company: fakeredis.FakeServer) -> None:
    letter = f"*/dead-letter/{Topic.MEMBERSHIP}:41"

    async def add() -> None:
        redis: Any = fakeredis.FakeAsyncRedis(server=company)
        await redis.hset(schema.facts_key(HOME), letter, "{}")
        await redis.hincrby(schema.partition_key(HOME), "facts", 1)

    asyncio.run(add())
    found = json.loads(run("inspect", "partition", str(HOME), "--json").stdout)
    kinds = {"agent": 2, "group": 1, "job": 1, "member": 1, "project": 1}
    assert (found["facts"], found["live_tokens"], found["letters_waiting"]) == (kinds, 1, 1)
    assert found["offsets"] == {"membership": 3, "agent-config": 2, "job-lifecycle": 1}
    assert found["owner"] == f"me-{HOME}"
    text = run("inspect", "partition", str(HOME)).stdout
    assert "checkpoint  whole" in text
    assert "letters     1 dead letter not in Kafka yet" in text


@pytest.mark.parametrize(
    ("vouched", "line"),
    [
        (12.0, r"waits for   source gitlab, silent for 1[23]\.\d s"),
        (None, r"waits for   source gitlab, silent since before the partition's owner began"),
    ],
)
def test_a_partition_is_shown_with_the_source_that_it_waits_for(
    company: fakeredis.FakeServer, vouched: float | None, line: str
) -> None:
    before = run("inspect", "partition", str(HOME))
    assert "waits for" not in before.stdout
    vouched_ms = 0 if vouched is None else round((time.time() - vouched) * 1000)

    async def wait(noted_ago: int) -> None:
        redis: Any = fakeredis.FakeAsyncRedis(server=company)
        await redis.hset(
            schema.partition_key(HOME),
            "silent",
            f"gitlab {vouched_ms} {round(time.time() * 1000) - noted_ago}",
        )

    asyncio.run(wait(60_000))
    assert "waits for" not in run("inspect", "partition", str(HOME)).stdout
    asyncio.run(wait(0))
    assert re.search(line, run("inspect", "partition", str(HOME)).stdout)
    found = json.loads(run("inspect", "partition", str(HOME), "--json").stdout)["waits_for"]
    assert found["source"] == "gitlab"
    assert (found["silent"] is None) == (vouched is None)


def test_an_agent_is_shown_with_the_live_jobs_that_may_use_it(
    server: fakeredis.FakeServer,
) -> None:
    asyncio.run(_jobs(server))
    found = json.loads(run("inspect", "agent", "5", "--json").stdout)
    assert [fact["key"] for fact in found["facts"]] == ["3/agent/5"]
    assert (found["jobs"], found["jobs_total"]) == ([9], 1)
    other = json.loads(run("inspect", "agent", "6", "--json").stdout)
    assert (other["jobs"], other["jobs_total"]) == ([], 0)
    assert run("inspect", "agent", "99").exit_code == 2
    held = json.loads(run("inspect", "partition", str(HOME), "--json").stdout)
    assert (held["facts"]["job"], held["live_tokens"]) == (3, 2)


async def _jobs(server: fakeredis.FakeServer) -> None:
    """A job that may use agent 5, one whose user may not, and one that has finished."""
    others = [
        builders.started(job, 7, user, expires_at=FOREVER) for job, user in ((10, 2), (11, 1))
    ]
    await worlds.filled(server, *others, builders.removed("job", 11))


def test_a_job_without_a_digest_is_shown_by_its_record(server: fakeredis.FakeServer) -> None:
    signed = builders.started(12, 7, token=None, expires_at=FOREVER)

    async def fill() -> None:
        await worlds.filled(server, signed)

    asyncio.run(fill())
    found = json.loads(run("inspect", "job", "12", "--json").stdout)
    assert list(found) == ["job", "job_key", "token", "facts"]
    assert (found["job_key"], found["token"]["sha256"]) == ("record", None)
    assert found["token"]["record"]["body"]["job"] == {"id": 12}
    text = run("inspect", "job", "12").stdout
    assert "sha256      none: the job's signed tokens share one record" in text
    fakeredis.FakeRedis(server=server).set(schema.job_key(12), "x")
    damaged = run("inspect", "job", "12")
    assert damaged.exit_code == 0
    assert "none: the job's key in Redis holds neither a record nor a digest" in damaged.stdout


@pytest.fixture
def signing(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SigningKey:
    """The key that commands check signed tokens with; job 12 has no digest, job 9 has one."""

    async def fill() -> None:
        await worlds.filled(server, builders.started(12, 7, token=None, expires_at=FOREVER))

    asyncio.run(fill())
    key, file = job_tokens.signing_key(), tmp_path / "key.pem"
    file.write_bytes(key.pem)
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_KEYS", str(file))
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_ISSUER", job_tokens.ISSUER)
    return key


def signed(key: SigningKey, job: int, **claims: Any) -> str:
    now = int(time.time())
    return key.token(job, **{"nbf": now - 5, "exp": now + 600} | claims)


@pytest.mark.parametrize("job", [9, 12])
def test_a_signed_token_is_verified_and_gets_the_record_of_its_job(
    signing: SigningKey, job: int
) -> None:
    token = signed(signing, job)
    result = run("inspect", "token", "--json", stdin=f"{token}\n")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["sha256"] == digest(token)
    assert found["record"]["body"]["job"] == {"id": job}
    assert [fact["key"] for fact in found["facts"]] == [f"3/job/{job}"]
    checked = found["signed"]
    assert (checked["result"], checked["refused"], checked["job"]) == ("verified", None, job)
    assert (checked["kid"], checked["issuer"]) == (signing.kid, job_tokens.ISSUER)
    assert token.rpartition(".")[2] not in run("inspect", "token", stdin=f"{token}\n").output


@pytest.mark.parametrize(
    ("claims", "answer"),
    [
        ({"exp": 1_700_000_000}, "Lookups get 401 for the token: expired"),
        ({"iss": "gitlab.example.org"}, "Lookups get 401 for the token: wrong issuer"),
        ({"sub": "gid://gitlab/User/1"}, "Lookups get 401 for the token: malformed subject"),
    ],
)
def test_a_signed_token_that_lookups_refuse_is_shown_with_the_reason(
    signing: SigningKey, claims: dict[str, Any], answer: str
) -> None:
    result = run("inspect", "token", stdin=signed(signing, 12, **claims))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == answer
    assert "record      none" in result.stdout


@pytest.mark.parametrize(
    "expires", ["1" + "0" * 400, "1e308", "1e400", "-1e308", "NaN", "true", '"x"']
)
def test_a_forged_token_with_odd_claims_is_shown(signing: SigningKey, expires: str) -> None:
    odd = f'{{"exp": {expires}, "iss": "\\ud800\\u001b[31m", "sub": []}}'
    forged = job_tokens.signing_key(1).signed_parts(
        b'{"alg": "RS256", "kid": "\\ud800"}', odd.encode()
    )
    result = run("inspect", "token", stdin=forged)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Lookups get 401 for the token: malformed" in result.stdout
    assert "no job, issuer None, key None, valid until None" in result.stdout
    found = json.loads(run("inspect", "token", "--json", stdin=forged).stdout)
    assert (found["signed"]["issuer"], found["signed"]["expires_at"]) == (None, None)


def test_a_token_of_an_unknown_key_is_in_doubt(signing: SigningKey) -> None:
    token = signed(job_tokens.signing_key(1), 12)
    assert signing.kid not in token
    result = run("inspect", "token", stdin=token)
    assert "Lookups get 503 for the token: unknown key" in result.stdout.splitlines()
    assert job_tokens.signing_key(1).kid in result.stdout
    assert result.stderr == ""


def test_a_token_that_is_refused_makes_no_log_entry(signing: SigningKey) -> None:
    assert run("inspect", "token", stdin=signed(signing, 12, iss="x")).stderr == ""


def test_without_keys_a_signed_token_is_read_by_its_digest(
    signing: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROJECTOR_JOB_TOKEN_KEYS")
    monkeypatch.delenv("PROJECTOR_JOB_TOKEN_ISSUER")
    result = run("inspect", "token", stdin=signed(signing, 12))
    assert result.exit_code == 1
    assert "not checked: PROJECTOR_JOB_TOKEN_KEYS is not set here" in result.stdout
    assert result.stdout.splitlines()[0] == (
        "There is no record under the token's SHA-256. Set PROJECTOR_JOB_TOKEN_KEYS here to check "
        "it as the API does"
    )


def test_a_key_file_that_cannot_be_read_is_named(
    signing: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_KEYS", "/nowhere.pem")
    result = run("inspect", "token", stdin=signed(signing, 12))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "/nowhere.pem" in result.stderr


def test_a_broadcast_is_one_line_and_stands_behind_what_there_is() -> None:
    event = EventRef("agent-config", 3, 7, "2027-01-15T08:00:00.000+00:00")
    removed = [
        InspectedFact(partition, "*/instance-agent/5", event, None, None)
        for partition in range(16)
    ]  # fmt: skip
    known = InspectedFact(15, "3/agent/5", event, None, {"name": "x"})
    rows = inspect_display.agent(InspectedAgent(5, [*removed, known], [9], 1))
    assert [row.text for row in rows] == [
        '3/agent/5 {"name": "x"}',
        "*/instance-agent/5 was removed, alike in 16 partitions",
        "that may use it now: 1: 9",
    ]
