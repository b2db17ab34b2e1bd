"""The product end to end: real broker, worker, Redis and API."""

import signal
from typing import Any

from projector.domain.entities import ENTITY_KINDS
from projector.domain.fact_keys import kind_of
from projector.events.model import EVENT_TYPES
from projector.events.partitioning import partition_of
from tests import builders
from tests.integration.deployment import PATH, Deployment
from tests.integration.servers import eventually

TOKEN = "glcbt-64_example-of-a-token-x"
ENVIRONMENT = {"name": "production", "slug": "production", "tier": "production"}
COMPANY: list[dict[str, Any]] = [
    builders.group(3),
    builders.group(12, 3),
    builders.project(123213, 12),
    builders.member(1, "developer", group_id=3),
    builders.agent(5, 123213),
]
STARTED = builders.started(9, 123213, 1, token=TOKEN, environment=ENVIRONMENT)
ANSWER = {
    "allowed_agents": [{"id": 5, "config_project": {"id": 123213}, "configuration": {}}],
    "job": {"id": 9},
    "pipeline": {"id": 2009},
    "project": {"id": 123213, "groups": [{"id": 12}, {"id": 3}]},
    "user": {
        "id": 1,
        "username": "root",
        "roles_in_project": ["guest", "planner", "reporter", "developer"],
    },
    "environment": {"slug": "production", "tier": "production"},
}
UNAUTHORIZED = {"message": "401 Unauthorized"}


def test_a_job_gets_its_agents_until_it_finishes(deployment: Deployment) -> None:
    deployment.start_all()
    assert deployment.look_up(TOKEN)[:2] == (401, UNAUTHORIZED)
    deployment.feed(*COMPANY)
    deployment.feed(STARTED)
    answer = deployment.until(TOKEN, 200)
    eventually(lambda: deployment.look_up(TOKEN).body == ANSWER, "the whole answer")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["age"]) <= 10
    assert answer.headers["view-version"].count(".") == 2
    for form in ({"Authorization": f"Bearer {TOKEN}"}, {"Job-Token": TOKEN}):
        assert deployment.get(PATH, form).body == ANSWER
    assert deployment.get(f"{PATH}?job_token={TOKEN}").body == ANSWER

    deployment.feed(builders.event("job.canceling", {"id": 9}))
    deployment.feed(builders.removed("agent", 5))
    eventually(lambda: not deployment.look_up(TOKEN).body["allowed_agents"], "the agent removed")
    deployment.feed(builders.user(1, "blocked"))
    blocked = deployment.until(TOKEN, 403)
    assert blocked.body == {"message": "403 Forbidden - Your account has been blocked."}
    deployment.feed(builders.removed("job", 9))
    finished = deployment.until(TOKEN, 401)
    assert finished.body == UNAUTHORIZED
    unknown = deployment.look_up("another")
    assert set(finished.headers.items()) - set(unknown.headers.items()) <= {
        ("date", finished.headers["date"])
    }


def test_no_token_is_anywhere_but_with_its_job(deployment: Deployment) -> None:
    """It is not in Redis, a log, a dead letter or an error message."""
    worker = deployment.start_all()
    deployment.feed(*COMPANY, STARTED)
    deployment.until(TOKEN, 200)
    deployment.produce(STARTED | {"data": STARTED["data"] | {"job_token": TOKEN}})
    deployment.produce(builders.event(TOKEN, {"id": 1}), topic="membership")
    letters = deployment.dead_letters(2)
    refused = deployment.command("feed", "-", stdin=f'{{"type": "{TOKEN}"}}')
    assert refused.returncode == 2
    dump = b"".join(key + (deployment.redis.dump(key) or b"") for key in deployment.redis.keys("*"))
    kept = [dump.decode(errors="replace"), worker.log(), str(letters), refused.stderr]
    assert not [text for text in kept if TOKEN in text]


def test_bad_events_become_dead_letters_and_hold_nobody_up(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.produce(b"{not json", topic="membership")
    elsewhere = (partition_of("3", 4) + 1) % 4
    deployment.produce(builders.group(3), partition=elsewhere)
    deployment.feed(*COMPANY, STARTED)
    deployment.until(TOKEN, 200)
    letters = deployment.dead_letters(2)
    assert {letter.value for letter in letters} >= {b"{not json"}
    reasons = " ".join(letter.headers["dead-letter-reason"] for letter in letters)
    assert "not JSON" in reasons
    assert "belongs in partition" in reasons
    assert {letter.headers["dead-letter-topic"] for letter in letters} == {"membership"}


def test_a_restarted_worker_goes_on_where_it_was(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY, STARTED)
    deployment.until(TOKEN, 200)
    assert worker.stop() == 0
    deployment.feed(builders.removed("agent", 5), builders.started(10, 123213, token="second"))
    worker.start()
    deployment.until("second", 200)
    deployment.until_fresh()
    assert deployment.look_up(TOKEN).body["allowed_agents"] == []
    facts = sum(
        int(deployment.redis.hget(f"allowed-agents:partition:{{{p}}}", "facts") or 0)
        for p in range(4)
    )
    assert facts == len(COMPANY) + 2


def test_a_killed_worker_loses_nothing(deployment: Deployment) -> None:
    worker = deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.feed(STARTED)
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    deployment.feed(*(builders.started(n, 123213, token=f"t{n}") for n in range(20, 60)))
    worker.start()
    for number in range(20, 60):
        deployment.until(f"t{number}", 200)
    eventually(lambda: deployment.look_up(TOKEN).body == ANSWER, "the whole answer")


def test_without_a_worker_answers_end_with_the_bound(deployment: Deployment) -> None:
    """The answer is then 503 with a reason and Retry-After, never an old list."""
    worker = deployment.start_all()
    deployment.start_api(PROJECTOR_MAX_STALENESS="2")
    deployment.feed(*COMPANY, STARTED)
    deployment.until(TOKEN, 200)
    worker.stop()
    stale = deployment.until(TOKEN, 503)
    assert stale.headers["retry-after"] == "1"
    assert "the bound is 2 s" in stale.body["reason"]
    assert deployment.look_up("unknown").status == 503
    worker.start()
    deployment.until(TOKEN, 200)


def test_two_workers_share_the_partitions(deployment: Deployment) -> None:
    deployment.start_all()
    deployment.start("worker")

    def owners() -> set[bytes | None]:
        keys = [f"allowed-agents:partition:{{{p}}}" for p in range(4)]
        return {deployment.redis.hget(key, "owner") for key in keys}

    eventually(lambda: len(owners()) == 2, "both own partitions")
    deployment.until_fresh()
    deployment.feed(*(builders.group(n, root=str(n)) for n in range(1, 40)))
    jobs = [builders.started(n, n, token=f"t{n}", root=str(n)) for n in range(1, 40)]
    deployment.feed(*(builders.project(n, n, root=str(n)) for n in range(1, 40)), *jobs)
    for number in range(1, 40):
        deployment.until(f"t{number}", 200)


def test_events_of_every_type_are_taken(deployment: Deployment) -> None:
    """Each becomes a fact, and none a dead letter."""
    deployment.start_all()
    config = {"ci_access": {"projects": [{"id": "acme/shop"}]}}
    shared = {"id": 6, "name": "shared", "project_id": 3, "configuration": {}}
    events = [
        *COMPANY,
        STARTED,
        builders.user(1),
        builders.event("agent.configured", {"id": 5, "config": config}),
        builders.shared_agent(7, 400, groups=[{"id": 3}]),
        builders.event("instance-agent.set", shared),
        builders.event("job.canceling", {"id": 9}),
        builders.event("member.removed", {"user_id": 1, "group_id": 3}),
        *(
            builders.removed(kind, 99)
            for kind in ("group", "project", "agent", "shared-agent", "instance-agent")
        ),
        builders.removed("job", 99),
    ]
    assert {event["type"] for event in events} == set(EVENT_TYPES)
    deployment.feed(*events)

    def kinds() -> set[str]:
        keys = [f"allowed-agents:facts:{{{p}}}" for p in range(4)]
        return {kind_of(field.decode()) for key in keys for field in deployment.redis.hkeys(key)}

    eventually(lambda: kinds() == ENTITY_KINDS.keys() - {"token"}, "a fact of every kind")
    deployment.until(TOKEN, 200)
    assert deployment.dead_letters(0) == []
