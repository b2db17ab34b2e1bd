"""`projector verify`: rows, their JSON, and exit codes."""

import asyncio
import json
from typing import Any

import fakeredis
import pytest

from projector.store import schema
from tests import builders
from tests.builders import digest
from tests.unit.cli.runner import run
from tests.unit.operators import worlds
from tests.unit.operators.worlds import FOREVER, HOME, OTHER

RECORD = schema.record_key(digest("token-9"))


@pytest.fixture
def redis(company: fakeredis.FakeServer) -> Any:
    return fakeredis.FakeRedis(server=company)


def damage(redis: Any, old: bytes, new: bytes) -> None:
    value = redis.get(RECORD)
    assert old in value
    redis.set(RECORD, value.replace(old, new), keepttl=True)


@pytest.mark.usefixtures("company")
def test_equal_views_are_counted_and_exit_with_0() -> None:
    result = run("verify")
    assert (result.exit_code, result.stdout) == (
        0,
        "1 tokens compared (1 live): 0 differ (0 over-grants)\n",
    )


def test_a_difference_is_a_line_and_exits_with_1(redis: Any) -> None:
    damage(redis, b'"id":5', b'"id":6')
    result = run("verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"found: OVER-GRANT, partition {HOME}, job 9, token {digest('token-9')}: "
        "body, agents too many: 6, agents missing: 5",
        "1 tokens compared (1 live): 1 differ (1 over-grants)",
    ]
    assert run("verify", "--partition", str(OTHER)).exit_code == 0


def test_the_json_of_a_difference_has_the_public_names_in_order(redis: Any) -> None:
    damage(redis, b'"id":5', b'"id":6')
    result = run("verify", "--json")
    assert result.stderr == "1 tokens compared (1 live): 1 differ (1 over-grants)\n"
    found = json.loads(result.stdout)
    expected = {
        "partition": HOME, "job": 9, "token_sha256": digest("token-9"), "differences": ["body"],
        "over_grant": True, "status": 200, "expected_status": 200, "agents_too_many": [6],
        "agents_too_few": [5], "agents_otherwise": [], "foreign_partition": None,
        "outcome": "found",
    }  # fmt: skip
    assert list(found.items()) == list(expected.items())


def test_a_repair_that_a_second_look_confirms_exits_with_0(redis: Any) -> None:
    redis.delete(RECORD)
    result = run("verify", "--repair")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == (
        "1 tokens compared (1 live): 1 differ (0 over-grants), 1 repaired"
    )
    assert redis.get(RECORD).startswith(b"200 ")


def test_a_partition_that_cannot_be_compared_is_a_row_and_exits_with_1(redis: Any) -> None:
    redis.hset(schema.facts_key(HOME), "3/group/12", "garbage")
    result = run("verify", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert list(found) == [
        "partition", "job", "token_sha256", "over_grant", "outcome", "error",
    ]  # fmt: skip
    assert (found["partition"], found["job"], found["over_grant"]) == (HOME, None, False)
    assert found["outcome"] == "not compared"
    text = run("verify").stdout
    assert text.startswith(f"not compared: partition {HOME}: partition {HOME} has ")
    assert text.endswith("0 tokens compared (0 live): 0 differ (0 over-grants), 1 not compared\n")


def test_what_belongs_to_no_partition_is_named_only_if_all_are_compared(redis: Any) -> None:
    redis.set(schema.record_key(digest("nobody")), b"\x1b[2J")
    line, _ = run("verify").stdout.splitlines()
    assert line == f"found: no partition, token {digest('nobody')}: its record is unreadable"
    assert run("verify", "--partition", str(HOME)).exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"200 ", b"503 ", "status 503 instead of 200"),
        (b" 0001 ", b" 0077 ", "its record is one of partition 77"),
    ],
)
def test_each_mismatch_is_written_in_words(redis: Any, old: bytes, new: bytes, words: str) -> None:
    damage(redis, old, new)
    line = f"found: partition {HOME}, job 9, token {digest('token-9')}: {words}"
    assert line in run("verify").stdout.splitlines()


@pytest.mark.usefixtures("company")
def test_a_partition_that_does_not_exist_exits_with_2() -> None:
    result = run("verify", "--partition", "0", "--partition", "7")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "there is no partition 7; there are 2, 0 to 1\n"


async def _orphan(server: fakeredis.FakeServer) -> None:
    redis: Any = fakeredis.FakeAsyncRedis(server=server)
    await redis.copy(RECORD, schema.record_key(digest("orphan")))
    await redis.delete(schema.job_key(9))


def test_over_grants_come_first(company: fakeredis.FakeServer) -> None:
    asyncio.run(_orphan(company))
    rows = [json.loads(line) for line in run("verify", "--json").stdout.splitlines()]
    assert [(row["differences"], row["over_grant"]) for row in rows] == [
        (["orphan"], True), (["job key"], False),
    ]  # fmt: skip


# jobs without a digest


@pytest.fixture
def signed(server: fakeredis.FakeServer) -> Any:
    """The Redis of every command, with job 12, whose tokens are signed."""
    asyncio.run(_signed(server))
    return fakeredis.FakeRedis(server=server)


async def _signed(server: fakeredis.FakeServer) -> None:
    await worlds.filled(server, builders.started(12, 7, token=None, expires_at=FOREVER))


def only_line() -> str:
    line, summary = run("verify").stdout.splitlines()
    assert summary.startswith("2 tokens compared (2 live): 1 differ ")
    return line


def test_a_job_without_a_digest_is_named_by_its_id_and_has_no_sha256(signed: Any) -> None:
    record = signed.get(schema.job_key(12))
    signed.set(schema.job_key(12), record.replace(b'"id":5', b'"id":6'), keepttl=True)
    assert only_line() == (
        f"found: OVER-GRANT, partition {HOME}, job 12: body, agents too many: 6, agents missing: 5"
    )
    row = json.loads(run("verify", "--json").stdout)
    assert (row["job"], row["token_sha256"]) == (12, None)


def test_a_digest_in_place_of_a_record_is_written_in_words(signed: Any) -> None:
    signed.set(schema.job_key(12), digest("token-9"))
    assert only_line() == (
        f"found: OVER-GRANT, partition {HOME}, job 12: allowed-agents:job:12 holds a digest, which "
        "the job does not have"
    )


def test_a_record_in_place_of_a_digest_is_written_in_words(signed: Any) -> None:
    record = signed.get(schema.job_key(12))
    signed.set(schema.job_key(9), record.replace(b'"id":5', b'"id":6'))
    assert only_line() == (
        f"found: OVER-GRANT, partition {HOME}, job 9, token {digest('token-9')}: "
        "allowed-agents:job:9 does not name it, so signed tokens of the job get another answer, "
        "agents too many: 6, agents missing: 5"
    )
    result = run("verify", "--repair")
    assert result.exit_code == 0
    assert signed.get(schema.job_key(9)) == digest("token-9").encode()


def test_a_damaged_key_of_a_job_with_a_digest_is_one_line(signed: Any) -> None:
    signed.set(schema.job_key(9), "x")
    assert only_line() == (
        f"found: partition {HOME}, job 9, token {digest('token-9')}: "
        "allowed-agents:job:9 does not name it"
    )


def test_a_record_of_an_unknown_job_is_written_in_words_and_ended(signed: Any) -> None:
    signed.set(schema.job_key(77), signed.get(schema.job_key(12)))
    line, summary = run("verify").stdout.splitlines()
    assert line == (
        f"found: OVER-GRANT, partition {HOME}, job 77: no fact names this job, agents too many: 5"
    )
    assert summary.startswith("3 tokens compared (2 live): 1 differ ")
    assert run("verify", "--repair").exit_code == 0
    assert signed.get(schema.job_key(77)) is None


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"\x1b[2J", "its record is unreadable"),
        (digest("token-9").encode(),
         "allowed-agents:job:77 holds a digest, which the job does not have, agents too many: 5"),
    ],
)  # fmt: skip
def test_the_key_of_an_unknown_job_is_deleted(signed: Any, held: bytes, words: str) -> None:
    signed.set(schema.job_key(77), held)
    kind = "" if "unreadable" in words else "OVER-GRANT, "
    assert only_line() == f"found: {kind}no partition, job 77: {words}"
    assert run("verify", "--partition", str(HOME)).exit_code == 0
    assert run("verify", "--repair").exit_code == 0
    assert signed.get(schema.job_key(77)) is None
