"""What the views must say, worked out the slow and obvious way; shares no code with the product.

It takes the events of one partition, in an order that keeps each topic's, and looks everything up
by scanning. Covers what the first release grants: agents of the job's own project, roles direct
and inherited. A `sequence` counts with everything but jobs.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Event = dict[str, Any]
LEVELS = {
    "guest": 10,
    "planner": 15,
    "reporter": 20,
    "developer": 30,
    "maintainer": 40,
    "owner": 50,
}
DEVELOPER = 30
SIXTY_DAYS = 60 * 24 * 3600 * 1000


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


class Oracle:
    def __init__(self, topics: Mapping[Any, list[Event]], sent_at: int) -> None:
        self.things: dict[tuple[Any, ...], Any] = {}
        self.sequences: dict[tuple[Any, ...], int] = {}
        self.started: dict[tuple[str, int], Event] = {}
        self.tokens: dict[str, tuple[str, int, int]] = {}
        self.jobs: dict[tuple[str, int], str] = {}
        self.finished: set[tuple[str, int]] = set()
        self.sent_at = sent_at
        for events in topics.values():
            for event in events:
                self.take(event)

    def take(self, event: Event) -> None:
        kind, root, data = event["type"], event["partitionkey"], event["data"]
        name, verb = kind.split(".")
        if kind == "job.started":
            self.start(root, data)
        elif kind == "job.finished":
            self.finished.add((root, data["id"]))
        elif name == "member":
            scope = (
                ("group", data["group_id"])
                if "group_id" in data
                else ("project", data["project_id"])
            )
            key = ("member", root, *scope, data["user_id"], data.get("via", "direct"))
            self.put(key, event, data if verb == "set" else None)
        elif name == "user":
            self.put(("user", data["id"]), event, data)
        elif verb == "set":
            self.put((name, root, data["id"]), event, data)
        elif verb == "removed" and self.put((name, root, data["id"]), event, None):
            for key in list(self.things):
                if key[:4] == ("member", root, name, data["id"]):
                    self.things[key] = None

    def put(self, key: tuple[Any, ...], event: Event, state: Event | None) -> bool:
        """Take the state unless a sequence says that it is old; whether it was taken."""
        if "sequence" in event:
            sequence = int(event["sequence"])
            if sequence <= self.sequences.get(key, -1):
                return False
            self.sequences[key] = sequence
        self.things[key] = state
        return True

    def start(self, root: str, data: Event) -> None:
        digest, job = data["token_sha256"], (root, data["id"])
        expires = min(milliseconds(data["expires_at"]), self.sent_at + SIXTY_DAYS)
        if digest in self.tokens:
            goes_on = job not in self.finished and self.jobs.get(job) == digest
            if self.tokens[digest][:2] != job or not goes_on:
                return
        self.tokens[digest] = (*job, expires)
        if job not in self.finished:
            self.jobs[job] = digest
            self.started[job] = data

    def views(self, now: int) -> dict[str, Any]:
        """By digest: 401, or status and document; without the tokens that have expired."""
        return {
            digest: self.view(digest, root, job, now)
            for digest, (root, job, expires) in self.tokens.items()
            if expires > now
        }

    def view(self, digest: str, root: str, job: int, now: int) -> Any:
        if (root, job) in self.finished or self.jobs[root, job] != digest:
            return 401
        data = self.started[root, job]
        project = self.things.get(("project", root, data["project_id"]), "unknown")
        if project is None:
            return 401
        groups = None if project == "unknown" else self.chain(root, project["group_id"])
        if groups is None:
            return 503
        user = self.user(data)
        if user.get("state", "active") != "active":
            return 403
        return 200, self.document(data, root, groups, user, now)

    def user(self, data: Event) -> Event:
        known: Event = self.things.get(("user", data["user"]["id"])) or data["user"]
        return known

    def chain(self, root: str, group: int | None) -> list[int] | None:
        chain: list[int] = []
        while group is not None:
            known = self.things.get(("group", root, group))
            if known is None or group in chain:
                return None
            chain.append(group)
            group = known["parent_id"]
        return chain

    def document(self, data: Event, root: str, groups: list[int], user: Event, now: int) -> Event:
        level = self.level(root, data["project_id"], groups, user["id"], now)
        agents = self.agents(root, data["project_id"]) if level >= DEVELOPER else []
        environment = data.get("environment")
        return {
            "allowed_agents": [
                {"id": a, "config_project": {"id": data["project_id"]}, "configuration": {}}
                for a in agents
            ],
            "job": {"id": data["id"]},
            "pipeline": {"id": data["pipeline_id"]},
            "project": {"id": data["project_id"], "groups": [{"id": g} for g in groups]},
            "user": {
                "id": user["id"],
                "username": user["username"],
                "roles_in_project": [name for name, lowest in LEVELS.items() if lowest <= level],
            },
            **(
                {"environment": {"slug": environment["slug"], "tier": environment["tier"]}}
                if environment
                else {}
            ),
        }

    def level(self, root: str, project: int, groups: list[int], user: int, now: int) -> int:
        scopes = [("project", project), *(("group", group) for group in groups)]
        return max(
            (
                LEVELS[member["role"]]
                for key, member in self.things.items()
                if key[0] == "member" and key[1] == root and member
                and member["user_id"] == user
                and key[2:4] in scopes
                and (member["expires_at"] is None or now < milliseconds(member["expires_at"]))
            ),
            default=0,
        )  # fmt: skip

    def agents(self, root: str, project: int) -> list[int]:
        return sorted(
            key[2]
            for key, agent in self.things.items()
            if key[0] == "agent" and key[1] == root and agent and agent["project_id"] == project
        )
