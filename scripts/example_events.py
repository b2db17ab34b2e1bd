"""Generator of `examples/events.ndjson` and `export.ndjson`: a company with two top-level groups.

Run it after each change: `python scripts/example_events.py [FOLDER]`. The wheel has a copy of the
events. The export has what is true behind them. The tokens are `example-token-<job>`; an event
never holds a token, only its SHA-256.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "examples"
events: list[dict[str, Any]] = []


def event(root: int, kind: str, **data: object) -> None:
    events.append(
        {
            "specversion": "1.0",
            "id": f"example-{len(events) + 1}",
            "source": "/example",
            "type": kind,
            "partitionkey": str(root),
            "data": data,
        }
    )


ACME, LABS = 3, 40
GROUPS = {
    ACME: [(3, None, "acme"), (12, 3, "acme/platform"), (13, 3, "acme/shop")],
    LABS: [(40, None, "labs"), (41, 40, "labs/research")],
}
PROJECTS = {
    ACME: [
        (123213, 12, "acme/platform/deploy"),
        (123214, 12, "acme/platform/network"),
        (123215, 12, "acme/platform/observability"),
        (123216, 13, "acme/shop/web"),
        (123217, 13, "acme/shop/api"),
        (123218, 13, "acme/shop/payments"),
        (123219, 3, "acme/handbook"),
    ],
    LABS: [
        (400, 41, "labs/research/models"),
        (401, 41, "labs/research/data"),
        (402, 41, "labs/research/notebooks"),
        (403, 40, "labs/site"),
        (404, 40, "labs/tools"),
    ],
}
USERS = {1: "root", 2: "ada", 3: "grace", 4: "linus", 5: "guido", 6: "mallory"}
MEMBERS = {
    ACME: [
        (1, {"group_id": 3}, "owner"),
        (2, {"group_id": 12}, "maintainer"),
        (3, {"group_id": 13}, "developer"),
        (4, {"project_id": 123213}, "reporter"),
        (6, {"group_id": 3}, "developer"),
    ],
    LABS: [
        (1, {"group_id": 40}, "owner"),
        (5, {"group_id": 41}, "developer"),
        (4, {"project_id": 404}, "guest"),
    ],
}
AGENTS = {
    ACME: [
        (5, "production", 123213),
        (6, "staging", 123213),
        (7, "network", 123214),
        (8, "shop-production", 123216),
        (9, "shop-staging", 123217),
    ],
    LABS: [(50, "gpu", 400), (51, "data", 401), (52, "site", 403)],
}
PRODUCTION = {"name": "production", "slug": "production", "tier": "production"}
REVIEW = {"name": "review/7", "slug": "review-7-abc", "tier": "development"}


def job(root: int, number: int, project: int, user: int, **more: object) -> None:
    digest = hashlib.sha256(f"example-token-{number}".encode()).hexdigest()
    started = {
        "id": number,
        "token_sha256": digest,
        "project_id": project,
        "pipeline_id": 2300 + number,
        "user": {"id": user, "username": USERS[user]},
        "ref_protected": False,
        "environment": None,
        "expires_at": "2099-01-01T00:00:00Z",
    }
    event(root, "job.started", **(started | more))


for root, groups in GROUPS.items():
    for number, parent, path in groups:
        event(root, "group.set", id=number, parent_id=parent, path=path)
for root, projects in PROJECTS.items():
    for number, group, path in projects:
        event(root, "project.set", id=number, group_id=group, path=path)
for number, name in USERS.items():
    state = "blocked" if name == "mallory" else "active"
    event(ACME, "user.set", id=number, username=name, state=state)
for root, members in MEMBERS.items():
    for user, where, role in members:
        event(root, "member.set", user_id=user, **where, role=role, via="direct", expires_at=None)
for root, agents in AGENTS.items():
    for number, name, project in agents:
        event(root, "agent.set", id=number, name=name, project_id=project)

job(ACME, 9, 123213, 1, ref_protected=True, environment=PRODUCTION)
job(ACME, 10, 123213, 4)
job(ACME, 11, 123213, 2)
event(ACME, "job.finished", id=11, status="success")
job(ACME, 12, 123213, 6)
for number, project, user in zip(
    range(13, 29),
    itertools.cycle(number for number, *_ in PROJECTS[ACME]),
    itertools.cycle([1, 2, 3]),
    strict=False,
):
    job(ACME, number, project, user, environment=REVIEW if number % 2 else None)
for number, project, user in zip(
    range(29, 39),
    itertools.cycle(number for number, *_ in PROJECTS[LABS]),
    itertools.cycle([1, 5]),
    strict=False,
):
    job(LABS, number, project, user)
for number in (14, 17, 21, 30):
    event(LABS if number > 28 else ACME, "job.finished", id=number, status="failed")
event(ACME, "job.canceling", id=15)
job(ACME, 39, 123213, 1, token_sha256=None)
# `projector explain 9 7` shows why it does not reach a job in production.
review = {"id": "acme/platform", "environments": ["review/*"]}
event(ACME, "agent.configured", id=7, config={"ci_access": {"groups": [review]}})

finished = {each["data"]["id"] for each in events if each["type"] == "job.finished"}


def is_true(each: dict[str, Any]) -> bool:
    """Whether an export lists what the event says."""
    entity, _, change = each["type"].partition(".")
    is_over = entity == "job" and each["data"]["id"] in finished
    return change in ("set", "configured", "started") and not is_over


for name, listed in ("events", events), ("export", filter(is_true, events)):
    lines = "".join(f"{json.dumps(each)}\n" for each in listed)
    (FOLDER / f"{name}.ndjson").write_text(lines)
    if name == "events" and not sys.argv[1:]:
        (ROOT / "src/projector/dev/events.ndjson").write_text(lines)
