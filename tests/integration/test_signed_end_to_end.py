"""Jobs with signed tokens end to end: real broker, worker, Redis and API."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

from projector.store import schema
from tests import builders
from tests.integration.deployment import PATH, Deployment
from tests.integration.servers import eventually
from tests.integration.test_end_to_end import ANSWER, COMPANY, ENVIRONMENT, UNAUTHORIZED
from tests.job_tokens import ISSUER, claims_of, signing_key
from tests.unit.cli import former_version

KEY = signing_key()
STARTED = builders.started(9, 123213, 1, token=None, environment=ENVIRONMENT)
FAR_S = 2**40


def signed(job: int = 9, **claims: Any) -> str:
    """A token that GitLab made a minute ago; two calls make two tokens."""
    jti = {"jti": str(time.monotonic_ns())}
    return KEY.token(job, **claims_of(job, int(time.time())) | jti | claims)


@pytest.fixture
def deployment(deployment: Deployment) -> Deployment:
    (file := deployment.folder / "key.pem").write_bytes(KEY.pem)
    deployment.env |= {
        "PROJECTOR_JOB_TOKEN_KEYS": str(file),
        "PROJECTOR_JOB_TOKEN_ISSUER": ISSUER,
    }
    return deployment


def reads_of(deployment: Deployment, key: str, act: Callable[[], object]) -> list[str]:
    """The commands with this key that Redis gets meanwhile, without the worker's sweep and scan."""
    seen: list[str] = []
    with redis.Redis.from_url(deployment.redis_url) as client, client.monitor() as monitor:
        act()
        deployment.redis.echo("the end")
        for found in monitor.listen():
            if found["command"] == "ECHO the end":
                return seen
            name, *_ = found["command"].split()
            if key in found["command"] and name not in ("GET", "PTTL", "GETRANGE"):
                seen.append(found["command"])
    return seen


def both_ways(deployment: Deployment, token: str) -> Any:
    """The answer of the fast path, which must be that of the ASGI way too."""
    fast = deployment.look_up(token)
    # A request with a body, even an empty one, is not plain enough for the fast path.
    slow = deployment.look_up(token, **{"Content-Length": "0"})
    assert (fast.status, fast.body) == (slow.status, slow.body)
    return fast.status, fast.body


def test_kas_gets_the_agents_of_a_job_that_started_without_a_digest(deployment: Deployment) -> None:
    worker = deployment.start_all()
    first, second = signed(), signed(exp=FAR_S)
    deployment.feed(*COMPANY, STARTED)
    deployment.until(first, 200)
    eventually(lambda: deployment.look_up(first).body == ANSWER, "the whole answer")
    assert both_ways(deployment, first) == both_ways(deployment, second) == (200, ANSWER)
    assert deployment.get(PATH, {"Authorization": f"Bearer {first}"}).body == ANSWER
    assert deployment.get(f"{PATH}?job_token={first}").body == ANSWER

    third, key = signed(), schema.job_key(9)
    kas = {"Gitlab-Kas-Api-Request": "x", "User-Agent": "gitlab-kas", "Accept-Encoding": "gzip"}
    for token, times in ((third, 1), (third, 5), (second, 5)):
        ask = partial(deployment.look_up, token, **kas)
        reads = reads_of(deployment, key, lambda: [ask() for _ in range(times)])  # noqa: B023
        assert [command.split()[0] for command in reads] == ["MGET"] * times

    deployment.feed(builders.removed("agent", 5))
    eventually(lambda: not deployment.look_up(first).body["allowed_agents"], "the agent removed")
    deployment.feed(builders.user(1, "blocked"))
    assert deployment.until(first, 403).body == deployment.look_up(second).body
    deployment.feed(builders.removed("job", 9))
    deployment.until(first, 401)
    for token in (first, second, third, signed(exp=FAR_S)):
        assert both_ways(deployment, token) == (401, UNAUTHORIZED)
    assert deployment.redis.get(key).startswith(b"401 ")
    assert deployment.dead_letters(0) == []
    kept = worker.log() + "".join(log.read_text() for log in deployment.folder.glob("api-*.log"))
    kept += str([(key, deployment.redis.dump(key)) for key in deployment.redis.keys("*")])
    for token in (first, second, third):
        assert not [part for part in token.split(".")[1:] if part in kept]


def test_a_job_with_a_digest_is_answered_by_it_and_by_signed_tokens(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.feed(*COMPANY, builders.started(9, 123213, token="plain", environment=ENVIRONMENT))
    deployment.until("plain", 200)
    token = signed()
    eventually(lambda: deployment.look_up(token).body == ANSWER, "the whole answer")
    # The same job again by a feed without digests: it keeps the one that it has.
    deployment.feed(builders.started(9, 123213, token=None))
    eventually(lambda: "environment" not in deployment.look_up(token).body, "started again")
    assert deployment.look_up("plain").body == deployment.look_up(token).body
    deployment.feed(builders.removed("job", 9))
    assert deployment.until(token, 401).body == deployment.until("plain", 401).body == UNAUTHORIZED


def test_a_job_that_gets_a_digest_later_keeps_its_signed_tokens(deployment: Deployment) -> None:
    deployment.start_all()
    token = signed()
    deployment.feed(*COMPANY, STARTED)
    deployment.until(token, 200)
    deployment.feed(builders.started(9, 123213, token="plain", environment=ENVIRONMENT))
    deployment.until("plain", 200)
    eventually(lambda: deployment.look_up("plain").body == ANSWER, "the whole answer")
    assert both_ways(deployment, token) == (200, ANSWER)
    assert deployment.redis.get(schema.job_key(9)) == builders.digest("plain").encode()


def test_a_projection_of_the_version_before_is_served_without_a_rebuild(
    deployment: Deployment,
) -> None:
    deployment.env["PROJECTOR_PARTITIONS"] = "2"
    assert deployment.command("topics").returncode == 0
    deployment.feed(*former_version.EVENTS)
    now_s = int(time.time())
    former_version.write(deployment.redis, then=now_s * 1000)
    deployment.start_api()
    # Its owner is gone, but the last stamp is fresh.
    assert deployment.until("token-9", 200).body["job"] == {"id": 9}
    assert [deployment.look_up(signed(job)).status for job in (9, 11)] == [200, 200]
    deployment.start("worker")
    key, former = schema.partition_key(1), former_version.STATE["owner"]
    eventually(lambda: deployment.redis.hget(key, "owner") != str(former).encode(), "a new owner")
    deployment.until_fresh()
    for job, token in ((9, "token-9"), (11, "second")):
        assert deployment.look_up(token).body == deployment.look_up(signed(job)).body
        assert deployment.look_up(token).body["job"] == {"id": job}
    deployment.until("first", 401)
    deployment.until(signed(10), 401)
    deployment.feed(builders.started(12, 7, token=None))
    deployment.until(signed(12), 200)
    deployment.feed(builders.removed("job", 9))
    deployment.until(signed(9), 401)
    verified = deployment.command("verify")
    assert verified.returncode == 0, verified.stdout
    assert deployment.dead_letters(0) == []
