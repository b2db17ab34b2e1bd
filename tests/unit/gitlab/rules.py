"""GitLab's rules over rows of its tables, in the slow and obvious way, without the product's code.

Where the product differs from GitLab on purpose, the rule is as docs/gitlab.md has it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
Tables = dict[str, dict[int, Row]]

ROLES = {
    "guest": 10, "planner": 15, "reporter": 20, "developer": 30, "maintainer": 40, "owner": 50,
}  # fmt: skip
TIERS = {0: "production", 1: "staging", 2: "testing", 3: "development"}
UNKNOWN, UNAVAILABLE, FORBIDDEN = 401, 503, 403


class Rules:
    """The answers of one moment; `setting`: may agents leave their root (None: none)."""

    def __init__(self, tables: Tables, today: str, setting: int | None) -> None:
        self.tables = tables
        self.today = today
        self.setting = setting

    def rows(self, table: str, **wanted: Any) -> Iterator[Row]:
        """Yield rows with these values, by id."""
        for _, row in sorted(self.tables[table].items()):
            if all(row[name] == value for name, value in wanted.items()):
                yield row

    # namespaces

    def namespace(self, row_id: int | None) -> Row | None:
        row = self.tables["namespaces"].get(row_id or 0)
        return row if row and row["type"] in ("Group", "User") else None

    def above(self, row_id: int | None) -> list[int]:
        """Return the namespace and those above it, as far as they are there."""
        found: list[int] = []
        while (row := self.namespace(row_id)) and row["id"] not in found:
            found.append(row["id"])
            row_id = row["parent_id"]
        return found

    def root(self, row_id: int | None) -> int | None:
        above = self.above(row_id)
        top = self.namespace(above[-1]) if above else None
        return above[-1] if top and top["parent_id"] is None else None

    def root_of_project(self, row_id: int | None) -> int | None:
        project = self.tables["projects"].get(row_id or 0)
        return self.root(project["namespace_id"]) if project else None

    def has_route(self, source_type: str, row_id: int) -> bool:
        return any(self.rows("routes", source_type=source_type, source_id=row_id))

    # jobs

    def is_started(self, job: Row) -> bool:
        """Return whether GitLab lets the job in, apart from a project that is being deleted."""
        has_user = job["user_id"] in self.tables["users"]
        return self.root_of_project(job["project_id"]) is not None and has_user

    def is_deleted_soon(self, project: int) -> bool:
        return bool(self.tables["projects"][project]["pending_delete"])

    def answer(self, job: Row) -> tuple[set[int], Any]:
        """Return the right statuses for a job that is let in, and the document of a 200.

        A project that is not there was removed, or was never known.
        """
        project = self.tables["projects"][job["project_id"]]
        home = self.namespace(project["namespace_id"])
        assert home
        is_there = self.has_route("Project", project["id"])
        if self.is_deleted_soon(project["id"]) or not is_there:
            return {UNKNOWN, UNAVAILABLE}, None
        groups = self.above(home["id"]) if home["type"] == "Group" else []
        kinds = [self.tables["namespaces"][group]["type"] for group in groups]
        routes = [self.has_route("Namespace", group) for group in groups]
        if "User" in kinds or not all(routes):
            return {UNAVAILABLE}, None
        if self.tables["users"][job["user_id"]]["state"] != "active":
            return {FORBIDDEN}, None
        return {200}, self.document(job, groups)

    def document(self, job: Row, groups: list[int]) -> Any:
        project, user = job["project_id"], self.tables["users"][job["user_id"]]
        level = self.level(user["id"], project, groups)
        environment = self.environment(job)
        agents = self.agents(project, groups) if level >= ROLES["developer"] else {}
        allowed = {
            agent: found
            for agent, found in agents.items()
            if lets_in(found[1], job, environment["name"] if environment else None)
        }
        document = {
            "allowed_agents": [
                {"id": agent, "config_project": {"id": home}, "configuration": config}
                for agent, (home, config) in sorted(allowed.items())
            ],
            "job": {"id": job["id"]},
            "pipeline": {"id": job["commit_id"]},
            "project": {"id": project, "groups": [{"id": group} for group in groups]},
            "user": {
                "id": user["id"],
                "username": user["username"],
                "roles_in_project": [name for name, low in ROLES.items() if low <= level],
            },
        }
        if environment:
            tier = TIERS.get(environment["tier"], "other")
            document["environment"] = {"slug": environment["slug"], "tier": tier}
        return document

    def environment(self, job: Row) -> Row | None:
        names = [
            row["expanded_environment_name"]
            for table, build in (
                ("job_environments", "ci_job_id"),
                ("p_ci_builds_metadata", "build_id"),
            )
            for row in self.rows(table, **{build: job["id"]})
            if row["expanded_environment_name"] is not None
        ]
        if not names:
            return None
        return next(self.rows("environments", project_id=job["project_id"], name=names[0]), None)

    # roles

    def counts(self, row: Row) -> bool:
        return row["expires_at"] is None or row["expires_at"] > self.today

    def members(self, source_type: str, source: int, user: int) -> Iterator[int]:
        for row in self.rows("members", source_type=source_type, source_id=source, user_id=user):
            is_member = row["access_level"] > 5 and row["requested_at"] is None
            if is_member and row["state"] == 0 and self.counts(row):
                yield row["access_level"]

    def in_group(self, group: int, user: int) -> Iterator[int]:
        """Yield the levels of a user in a group: as a member, and by shares with other groups."""
        yield from self.members("Namespace", group, user)
        for link in self.rows("group_group_links", shared_group_id=group):
            if self.counts(link):
                for level in self.members("Namespace", link["shared_with_group_id"], user):
                    yield min(level, link["group_access"])

    def in_invited(self, project: int, user: int) -> Iterator[int]:
        home = self.namespace(self.tables["projects"][project]["namespace_id"])
        if not home or home["share_with_group_lock"] != 0:
            return
        for link in self.rows("project_group_links", project_id=project):
            if self.counts(link):
                for group in self.with_missing(link["group_id"]):
                    for level in self.in_group(group, user):
                        yield min(level, link["group_access"])

    def with_missing(self, group: int) -> list[int]:
        """Return the group and those above; the last of them may have no row."""
        found = self.above(group)
        last = self.tables["namespaces"][found[-1]]["parent_id"] if found else group
        return found if last is None else list(dict.fromkeys([*found, last]))

    def level(self, user: int, project: int, groups: list[int]) -> int:
        levels = [*self.members("Project", project, user), *self.in_invited(project, user), 0]
        for group in groups:
            levels += self.in_group(group, user)
        home = self.namespace(self.tables["projects"][project]["namespace_id"])
        if home and home["type"] == "User" and home["owner_id"] == user:
            levels.append(50)
        return max(level for level in levels if level == 0 or level > 5)

    # agents

    def reaches(self, agent: Row, project: int) -> bool:
        """Return whether the agent's grants count for the project: root namespace, setting."""
        home = agent["project_id"]
        root = self.root_of_project(home)
        if root is None or self.is_deleted_soon(home):
            return False
        if root == self.root_of_project(project):
            return self.has_route("Project", home)
        return self.setting == 1

    def granted(self, table: str, column: str, target: int) -> dict[int, tuple[int, Row]]:
        found = {}
        for row in self.rows(table, **{column: target}):
            agent = self.tables["cluster_agents"].get(row["agent_id"])
            config = json.loads(row["config"])
            if agent and isinstance(config, dict):
                found[agent["id"]] = (agent["project_id"], config)
        return found

    def agents(self, project: int, groups: list[int]) -> dict[int, tuple[int, Row]]:
        """Return each agent's first authorization."""
        grants = [self.granted("agent_project_authorizations", "project_id", project)]
        own = self.rows("cluster_agents", project_id=project)
        grants.append({agent["id"]: (project, {}) for agent in own})
        for group in groups:
            grants.append(self.granted("agent_group_authorizations", "group_id", group))
        found: dict[int, tuple[int, Row]] = {}
        for granted in grants:
            for agent, grant in granted.items():
                if self.reaches(self.tables["cluster_agents"][agent], project):
                    found.setdefault(agent, grant)
        return self.of_instance() | found

    def of_instance(self) -> dict[int, tuple[int, Row]]:
        last = {
            row["agent_id"]: json.loads(row["config"])
            for row in self.rows("agent_organization_authorizations")
        }
        agents = self.tables["cluster_agents"]
        if self.setting == 0:
            return {}
        return {
            agent: (agents[agent]["project_id"], config)
            for agent, config in last.items()
            if agent in agents and isinstance(config, dict)
        }


def lets_in(config: Row, job: Row, environment: str | None) -> bool:
    if config.get("protected_branches_only") and not job["protected"]:
        return False
    patterns = config.get("environments")
    if not patterns:
        return True
    wanted = (".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)
    return environment is not None and any(re.fullmatch(w, environment) for w in wanted)
