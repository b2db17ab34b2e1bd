"""Verify, audit and rebuild, with and without running workers and lookups."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from projector.events.partitioning import partition_of
from tests import builders
from tests.builders import digest
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually

HOME = partition_of("3", PARTITIONS)
COMPANY = [
    builders.group(3), builders.project(7, 3), builders.member(1, group_id=3), builders.agent(5, 7),
    builders.started(9, 7), builders.started(8, 7, 2),
]  # fmt: skip


def token_key(token: str) -> str:
    return f"allowed-agents:token:{digest(token)}"


def damage(deployment: Deployment, old: bytes, new: bytes, token: str = "token-9") -> None:
    raw = deployment.redis.get(token_key(token))
    assert old in raw
    deployment.redis.set(token_key(token), raw.replace(old, new), keepttl=True)


def rows(deployment: Deployment, *command: str, status: int) -> list[dict[str, Any]]:
    """Run a command with --json; return its rows."""
    done = deployment.command(*command, "--json")
    assert done.returncode == status, (done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


# verify


def test_drift_is_found_and_repaired(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.until_agents("token-9", 5)
    deployment.until("token-8", 200)
    done = deployment.command("verify")
    assert (done.returncode, done.stdout) == (
        0, "2 tokens compared (2 live): 0 differ (0 over-grants)\n",
    )  # fmt: skip

    # A proven miss is older than every stamp. A job newer than the last one would not be settled.
    deployment.until("unknown", 401)
    # The sweep repairs so few views within a second, so the worker must not run.
    assert worker.stop() == 0
    damage(deployment, b'"id":5', b'"id":6')
    deployment.redis.delete(token_key("token-8"))
    orphan = deployment.redis.get(token_key("token-9"))
    deployment.redis.set(token_key("orphan"), orphan)
    found = rows(deployment, "verify", status=1)
    assert [(row["job"], row["differences"], row["over_grant"]) for row in found] == [
        (None, ["orphan"], True), (9, ["body"], True), (8, ["missing"], False),
    ]  # fmt: skip
    assert (found[1]["agents_too_many"], found[1]["agents_too_few"]) == ([6], [5])
    assert {row["partition"] for row in found} == {HOME}
    printed = deployment.command("verify").stdout.splitlines()
    assert printed[1] == (
        f"found: OVER-GRANT, partition {HOME}, job 9, token {digest('token-9')}: "
        "body, agents too many: 6, agents missing: 5"
    )
    assert printed[-1] == "3 tokens compared (2 live): 3 differ (2 over-grants)"
    assert deployment.command("verify", "--partition", str((HOME + 1) % 4)).returncode == 0

    repaired = rows(deployment, "verify", "--repair", status=0)
    assert [row["outcome"] for row in repaired] == ["repaired"] * 3
    assert b'"id":5' in deployment.redis.get(token_key("token-9"))
    assert deployment.redis.get(token_key("token-8")).startswith(b"200 ")
    assert deployment.redis.get(token_key("orphan")).startswith(b"401 ")
    assert deployment.command("verify").returncode == 0


def test_a_repair_beside_a_running_worker_is_seen_by_lookups(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.until_agents("token-9", 5)
    orphan = deployment.redis.get(token_key("token-9"))
    deployment.redis.set(token_key("orphan"), orphan)
    assert deployment.look_up("orphan").status == 200
    repaired = rows(deployment, "verify", "--repair", status=0)
    assert [row["differences"] for row in repaired] == [["orphan"]]
    assert deployment.look_up("orphan").status == 401
    assert deployment.agents("token-9") == [5]


def test_the_keys_of_jobs_are_compared_and_repaired(deployment: Deployment) -> None:
    worker = deployment.start_all()
    signed = [builders.started(job, 7, token=None) for job in (12, 13)]
    deployment.feed(*COMPANY, *signed, builders.started(13, 7))
    deployment.until_agents("token-13", 5)
    deployment.until("unknown", 401)
    assert deployment.command("verify").returncode == 0
    assert worker.stop() == 0
    redis, key = deployment.redis, "allowed-agents:job:{}".format
    right = {job: redis.get(key(job)) for job in (9, 12, 13)}
    assert (right[9], right[13]) == (digest("token-9").encode(), digest("token-13").encode())
    redis.delete(key(9))
    redis.set(key(13), right[12])
    redis.set(key(12), digest("token-8"))
    redis.set(key(77), right[12])
    redis.set(key(90), digest("token-9"))
    redis.set(key(91), "x")
    found = rows(deployment, "verify", status=1)
    assert {row["job"]: (row["differences"], row["over_grant"]) for row in found} == {
        9: (["job key"], False), 12: (["job key"], False), 13: (["job key"], True),
        77: (["orphan"], True), 90: (["job key"], True), 91: (["unreadable"], False),
    }  # fmt: skip
    assert {row["job"] for row in found if row["token_sha256"]} == {9, 13}
    repaired = rows(deployment, "verify", "--repair", status=0)
    assert [row["outcome"] for row in repaired] == ["repaired"] * 6
    assert {job: redis.get(key(job))[35:] for job in right} == {
        job: value[35:] for job, value in right.items()
    }
    assert [redis.get(key(job)) for job in (77, 90, 91)] == [None] * 3


def test_verify_says_what_is_missing_and_when_redis_is_away(deployment: Deployment) -> None:
    empty = deployment.command("verify")
    assert (empty.returncode, empty.stdout) == (2, "")
    assert "no worker has run on this database yet" in empty.stderr
    deployment.start_all()
    assert deployment.command("verify", "--partition", str(PARTITIONS)).returncode == 2
    deployment.env["PROJECTOR_MINIMUM_ROLE"] = "none"
    other = deployment.command("verify", "--repair")
    assert other.returncode == 2
    assert "PROJECTOR_MINIMUM_ROLE" in other.stderr
    del deployment.env["PROJECTOR_MINIMUM_ROLE"]
    deployment.redis.hset(f"allowed-agents:facts:{{{HOME}}}", "3/group/12", "garbage")
    (row,) = rows(deployment, "verify", status=1)
    assert (row["partition"], row["outcome"]) == (HOME, "not compared")
    deployment.redis.shutdown(nosave=True)
    gone = deployment.command("verify")
    assert gone.returncode == 3
    assert "Redis at " in gone.stderr
    assert "Traceback" not in gone.stderr


# audit


def audit(
    deployment: Deployment, *export: dict[str, Any], status: int, options: list[str]
) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps(event) for event in export)
    done = deployment.command("audit", "-", "--json", *options, stdin=lines)
    assert done.returncode == status, (done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def moment() -> str:
    return datetime.now(UTC).isoformat()


def has_applied(deployment: Deployment, key: str, part: str) -> bool:
    fact = deployment.redis.hget(f"allowed-agents:facts:{{{HOME}}}", key)
    return fact is not None and part in fact.decode()


def test_facts_are_made_what_an_export_says_and_not_what_it_no_longer_says(
    deployment: Deployment,
) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY, builders.agent(6, 7))
    deployment.until_agents("token-9", 5, 6)
    kinds = ["group", "project", "member", "agent"]
    kind_options = [word for kind in kinds for word in ("--kind", kind)] + ["--clock-skew", "0"]
    taken = ["--taken", moment()]
    export = [
        builders.group(3), builders.project(7, 3), builders.project(77, 3),
        builders.member(1, "guest", group_id=3),
        builders.agent(5, 7),
    ]  # fmt: skip
    found = audit(deployment, *export, status=1, options=kind_options + taken)
    assert {row["key"]: (row["what"], row["line"]) for row in found} == {
        "3/agent/6": ("extra", None),
        "3/member/group:3/user:1/direct": ("different", 4),
        "3/project/77": ("missing", 3),
    }
    assert found[1]["fields"] == {"level": {"fact": 30, "export": 10}}
    assert audit(deployment, *COMPANY, builders.agent(6, 7), status=0, options=taken) == []
    lines = "\n".join(json.dumps(event) for event in export)
    printed = deployment.command("audit", "-", *kind_options, *taken, stdin=lines).stdout
    assert (
        "different, OVER-GRANT: user 1 in group 3: developer here, guest in the export (line 4) ["
        in printed
    )
    assert "1 missing, 1 extra, 1 different, 0 newer" in printed
    assert "not compared: job" in printed

    fed = audit(deployment, *export, status=0, options=[*kind_options, *taken, "--repair"])
    assert [row["outcome"] for row in fed] == ["fed"] * 3
    eventually(lambda: has_applied(deployment, "3/member/group:3/user:1/direct", "10"), "applied")
    eventually(lambda: has_applied(deployment, "3/project/77", "p77"), "applied")
    assert deployment.agents("token-9") == []
    assert audit(deployment, *export, status=0, options=[*kind_options, "--taken", moment()]) == []

    # An old export, and a later revocation.
    old = ["--taken", moment(), "--clock-skew", "0"]
    deployment.feed(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    field = "3/member/group:3/user:1/direct"
    eventually(lambda: not has_applied(deployment, field, "data"), "removed")
    assert audit(deployment, *export, status=0, options=[*old, "--repair"]) == []
    deployment.feed(builders.user(1))
    eventually(
        lambda: deployment.look_up("token-9").body.get("user", {}).get("username") == "u1",
        "what was fed after the audit",
    )
    assert deployment.agents("token-9") == []


def test_audit_says_what_is_wrong_with_the_export_and_what_is_away(deployment: Deployment) -> None:
    deployment.start_all()
    bad = deployment.command("audit", "-", stdin=json.dumps(builders.removed("group", 3)) + "\n{")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines()[0].startswith("-:1: an export says what there is; group.removed")
    assert bad.stderr.splitlines()[1].startswith("-:2: ")
    line = json.dumps(builders.group(3))
    for options, reason in [
        (["--repair"], "not every line has a `time`"),
        (["--repair", "--taken", "2001-01-01"], "removed since could come back"),
        (["--repair", "--taken", "2099-01-01"], "yet to come"),
        (["--taken", "x"], "--taken: must be a time"),
        (["--kind", "token"], "--kind: token is no kind"),
    ]:
        refused = deployment.command("audit", "-", *options, stdin=line)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert reason in refused.stderr
    empty = deployment.command("audit", "-", stdin="\n")
    assert empty.returncode == 2
    kafka, deployment.env["PROJECTOR_KAFKA"] = deployment.env["PROJECTOR_KAFKA"], "127.0.0.1:1"
    away = deployment.command("audit", "-", "--repair", "--taken", moment(), stdin=line)
    assert away.returncode == 3
    assert "Kafka at 127.0.0.1:1 cannot be reached" in away.stderr
    deployment.env["PROJECTOR_KAFKA"] = kafka
    deployment.redis.shutdown(nosave=True)
    gone = deployment.command("audit", "-", stdin=line)
    assert gone.returncode == 3
    assert "Redis at " in gone.stderr


# rebuild

FACTS = f"allowed-agents:facts:{{{HOME}}}"
MEMBER = "3/member/group:3/user:1/direct"


@contextmanager
def looking_up(deployment: Deployment, token: str) -> Iterator[list[tuple[int, list[int]]]]:
    """Look the token up in a thread; collect each answer that differs from the one before."""
    answers: list[tuple[int, list[int]]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            answer = deployment.look_up(token)
            allowed = [agent["id"] for agent in (answer.body or {}).get("allowed_agents", [])]
            if not answers or answers[-1] != (answer.status, allowed):
                answers.append((answer.status, allowed))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def owner(deployment: Deployment) -> str:
    held: bytes = deployment.redis.hget(f"allowed-agents:partition:{{{HOME}}}", "owner")
    return held.decode()


def test_a_rebuild_beside_a_running_worker_leaves_no_gap_in_serving(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.produce(builders.member(1, "developper", group_id=3))
    deployment.until_agents("token-9", 5)
    deployment.dead_letters(1)
    assert deployment.command("rebuild", "--dry-run").returncode == 0
    right = deployment.redis.hget(FACTS, MEMBER)
    deployment.redis.hset(FACTS, MEMBER, right.replace(b"30", b"50"))
    before = owner(deployment)
    found = rows(deployment, "rebuild", "--dry-run", status=1)
    assert [(row.get("what"), row.get("key")) for row in found] == [("fact different", MEMBER)]
    assert found[0]["stored"]["data"]["level"] == 50
    assert found[0]["rebuilt"]["data"]["level"] == 30
    assert owner(deployment) == before
    with looking_up(deployment, "token-9") as answers:
        *_, last = rows(deployment, "rebuild", "--partition", str(HOME), status=0)
        assert (last["what"], last["claimed"]) == ("in place", True)
        assert deployment.redis.hget(FACTS, MEMBER) == right
        deployment.feed(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
        eventually(lambda: answers[-1] == (200, []), "an answer without the agent")
    assert answers == [(200, [5]), (200, [])]
    assert owner(deployment) == before
    assert deployment.redis.get("allowed-agents:job:9").decode() == digest("token-9")
    assert deployment.command("verify").returncode == 0
    assert len(deployment.dead_letters(1)) == 1


def test_a_rebuild_without_a_worker_mends_facts_and_views(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.until_agents("token-9", 5)
    deployment.until("token-8", 200)
    assert worker.stop() == 0
    facts = deployment.redis.hgetall(FACTS)
    deployment.redis.hset(FACTS, MEMBER, facts[MEMBER.encode()].replace(b"30", b"50"))
    damage(deployment, b'"id":5', b'"id":6')
    done = deployment.command("rebuild", "--partition", str(HOME))
    assert done.returncode == 0
    fact, view, end = done.stdout.splitlines()
    assert fact.startswith(f"fact different: partition {HOME}, {MEMBER}: the checkpoint has {{")
    assert view.startswith(f"changes: OVER-GRANT, partition {HOME}, job 9, token ")
    assert end.endswith("no worker has claimed it: start one, or its lookups get 503")
    assert deployment.redis.hgetall(FACTS) == facts
    assert b'"id":5' in deployment.redis.get(token_key("token-9"))
    worker.start()
    deployment.until_agents("token-9", 5)


def test_rebuild_says_what_is_away(deployment: Deployment) -> None:
    deployment.start_all()
    assert deployment.command("rebuild", "--partition", str(PARTITIONS)).returncode == 2
    kafka, deployment.env["PROJECTOR_KAFKA"] = deployment.env["PROJECTOR_KAFKA"], "127.0.0.1:1"
    away = deployment.command("rebuild")
    assert (away.returncode, away.stdout) == (3, "")
    assert "Kafka at 127.0.0.1:1 cannot be reached" in away.stderr
    deployment.env["PROJECTOR_KAFKA"] = kafka
    deployment.redis.shutdown(nosave=True)
    gone = deployment.command("rebuild")
    assert (gone.returncode, gone.stdout) == (3, "")
    assert "Redis at " in gone.stderr
    assert "Traceback" not in gone.stderr + away.stderr


@pytest.mark.parametrize("kafka", ["apache"], indirect=True)
def test_a_recreated_topic_is_rebuilt_only_if_the_loss_is_accepted(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.until_agents("token-9", 5)
    worker.stop()
    deployment.delete_topic("agent-config")
    assert deployment.command("topics").returncode == 0
    worker.start()
    eventually(lambda: "agent-config was recreated" in worker.log(), "the alarm")
    refused = deployment.command("rebuild")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"partition {HOME}: agent-config was recreated" in refused.stderr
    assert "--accept-loss" in refused.stderr
    found = rows(deployment, "rebuild", "--dry-run", status=1)
    assert [row["what"] for row in found if "what" in row] == ["loss", "fact extra"]
    done = rows(deployment, "rebuild", "--accept-loss", "--partition", str(HOME), status=0)
    assert (done[-1]["what"], done[-1]["claimed"]) == ("in place", True)
    deployment.until_agents("token-9")
    deployment.feed(builders.agent(6, 7))
    deployment.until_agents("token-9", 6)
