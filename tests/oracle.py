"""The correct views, computed in the slow and obvious way, without any code of the product.

The oracle takes the events of one partition, in an order that keeps that of each topic, and scans
them for everything. A `sequence` counts for everything except jobs.
"""

import re
from collections.abc import Iterator, Mapping
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
IDENTITIES = {"agent", "ci_job", "impersonate"}
# An agent, its configuration project, and the entry that grants it.
Row = tuple[int, int, Event]
SIXTY_DAYS = 60 * 24 * 3600 * 1000


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


class Oracle:
    def __init__(self, topics: Mapping[Any, list[Event]], sent_at: int) -> None:
        self.entities: dict[tuple[Any, ...], Any] = {}
        self.sequences: dict[tuple[Any, ...], int] = {}
        self.started: dict[tuple[str, int], Event] = {}
        # By digest, or by the id of a job without one.
        self.holders: dict[str, tuple[str, int, int]] = {}
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
        elif name in ("user", "instance-agent"):
            self.put((name, data["id"]), event, None if verb == "removed" else data)
        elif verb == "configured":
            self.put(("configuration", root, data["id"]), event, data["config"])
        elif verb == "set":
            self.put((name, root, data["id"]), event, data)
        elif verb == "removed" and self.put((name, root, data["id"]), event, None):
            for key in list(self.entities):
                if key[:4] == ("member", root, name, data["id"]):
                    self.entities[key] = None

    def put(self, key: tuple[Any, ...], event: Event, state: Event | None) -> bool:
        """Take the state unless its sequence is old; return whether it was taken."""
        if "sequence" in event:
            sequence = int(event["sequence"])
            if sequence <= self.sequences.get(key, -1):
                return False
            self.sequences[key] = sequence
        self.entities[key] = state
        return True

    def start(self, root: str, data: Event) -> None:
        job, own = (root, data["id"]), str(data["id"])
        expires = min(milliseconds(data["expires_at"]), self.sent_at + SIXTY_DAYS)
        view = data.get("token_sha256") or self.digest_of(job) or own
        if view in self.holders:
            goes_on = job not in self.finished and self.jobs.get(job) == view
            if self.holders[view][:2] != job or not goes_on:
                return
        if view != own and self.holders.get(own, ())[:2] == job:
            *_, until = self.holders.pop(own)
            expires = until if job in self.finished else expires
        self.holders[view] = (*job, expires)
        if job not in self.finished:
            self.jobs[job] = view
            self.started[job] = data

    def digest_of(self, job: tuple[str, int]) -> str | None:
        """Return the digest that the job has, or had when it finished."""
        of_job = [id_ for id_, (root, number, _) in self.holders.items() if (root, number) == job]
        digests = [id_ for id_ in of_job if len(id_) == 64]
        return self.jobs[job] if self.jobs.get(job) in digests else next(iter(digests), None)

    def views(self, now: int) -> dict[str, Any]:
        """Return a status, or 200 and the document, for each view that has not expired."""
        return {
            id_: self.view(id_, root, job, now)
            for id_, (root, job, expires) in self.holders.items()
            if expires > now
        }

    def view(self, id_: str, root: str, job: int, now: int) -> Any:
        if (root, job) in self.finished or self.jobs[root, job] != id_:
            return 401
        data = self.started[root, job]
        project = self.entities.get(("project", root, data["project_id"]), "unknown")
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
        known: Event = self.entities.get(("user", data["user"]["id"])) or data["user"]
        return known

    def chain(self, root: str, group: int | None) -> list[int] | None:
        chain: list[int] = []
        while group is not None:
            known = self.entities.get(("group", root, group))
            if known is None or group in chain:
                return None
            chain.append(group)
            group = known["parent_id"]
        return chain

    def document(self, data: Event, root: str, groups: list[int], user: Event, now: int) -> Event:
        level = self.level(root, data["project_id"], groups, user["id"], now)
        allowed = self.allowed(root, data, groups) if level >= DEVELOPER else []
        environment = data.get("environment")
        return {
            "allowed_agents": [
                {"id": agent, "config_project": {"id": project}, "configuration": configuration}
                for agent, project, configuration in allowed
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
                for key, member in self.entities.items()
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
            for key, agent in self.entities.items()
            if key[0] == "agent" and key[1] == root and agent and agent["project_id"] == project
        )

    def allowed(self, root: str, job: Event, groups: list[int]) -> list[Row]:
        project = job["project_id"]
        rows = self.granted(root, "projects", "project", project)
        rows += [(agent, project, {}) for agent in self.agents(root, project)]
        nearest: dict[int, Row] = {}
        for group in groups:
            for row in self.granted(root, "groups", "group", group):
                nearest.setdefault(row[0], row)
        rows += [nearest[agent] for agent in sorted(nearest)]
        rows += sorted(self.of_the_instance(), key=lambda row: row[0])
        first: dict[int, Row] = {}
        for row in rows:
            first.setdefault(row[0], row)
        return [row for row in first.values() if allows(row[2], job)]

    def granted(self, root: str, kind: str, name: str, target: int) -> list[Row]:
        """Return the agents whose configuration names the project or group, by id or path."""
        path = self.entities[name, root, target]["path"]
        rows = []
        counting = [*self.counting_agents(root), *self.agents_of_other_roots(root)]
        for agent, project, config in sorted(counting, key=lambda found: found[0]):
            entries = ((config.get("ci_access") or {}).get(kind) or [])[:500]
            for entry in reversed(entries):
                names = entry["id"] if isinstance(entry["id"], int) else entry["id"].lower()
                if names in (target, path.lower()) and is_readable(entry):
                    rows.append((agent, project, without_id(entry)))
                    break
        return rows

    def counting_agents(self, root: str) -> Iterator[tuple[int, int, Event]]:
        """Yield agents whose configuration projects are known, with these and their files."""
        agents = [
            (key[2], a) for key, a in self.entities.items() if key[:2] == ("agent", root) and a
        ]
        for agent, data in agents:
            if self.entities.get(("project", root, data["project_id"])):
                config = self.entities.get(("configuration", root, agent)) or {}
                yield agent, data["project_id"], config

    def agents_of_other_roots(self, root: str) -> Iterator[tuple[int, int, Event]]:
        """Yield the agents shared with this root namespace that are not known in it themselves."""
        for key, shared in self.entities.items():
            is_local = self.entities.get(("agent", root, key[-1]))
            if key[:2] == ("shared-agent", root) and shared and not is_local:
                yield key[2], shared["project_id"], shared["config"]

    def of_the_instance(self) -> Iterator[Row]:
        for key, agent in self.entities.items():
            if key[0] == "instance-agent" and agent and is_readable(agent["configuration"]):
                yield key[1], agent["project_id"], without_id(agent["configuration"])


def without_id(entry: Event) -> Event:
    return {name: value for name, value in entry.items() if name != "id"}


def is_readable(entry: Event) -> bool:
    """Return whether KAS can read the entry; its `access_as` must be an object of objects."""
    access = entry.get("access_as")
    return access is None or len(IDENTITIES & access.keys()) == 1


def allows(entry: Event, job: Event) -> bool:
    if entry.get("protected_branches_only") and not job["ref_protected"]:
        return False
    patterns = entry.get("environments")
    if not patterns:
        return True
    if not job.get("environment"):
        return False
    name = job["environment"]["name"]
    wanted = (".*".join(re.escape(part) for part in pattern.split("*")) for pattern in patterns)
    return any(re.fullmatch(expression, name, re.DOTALL) for expression in wanted)
