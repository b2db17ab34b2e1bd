"""Reader of `cases.yaml`: events from its short form, and the comparison of answers."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from jsonschema import Draft202012Validator

from tests.builders import digest, event

FOLDER: Final = Path(__file__).parent
SCHEMA: Final = Draft202012Validator(
    msgspec.json.decode((FOLDER / "allowed_agents.schema.json").read_bytes())
)
ROOT: Final = 1
JOB: Final = 9
DAY_S: Final = 24 * 3600
# The fields with an id. Each case has ids of its own, so that cases do not affect each other.
IDS: Final = {"id", "parent_id", "group_id", "project_id", "user_id", "pipeline_id"}
APART: Final = 1_000_000

Message = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One row of the table. `number` keeps its ids and tokens apart from those of other cases."""

    name: str
    source: str
    events: list[Message]
    answer: dict[str, Any]
    at: int
    minimum_role: str
    number: int = 0

    def token(self, name: str | None = None) -> str:
        return f"case-{self.number}-{name or self.answer.get('token', f'job-{JOB}')}"

    def messages(self, start_s: float) -> list[Message]:
        """Return the events in full; `start_s` is the start of the case, in seconds since 1970."""
        return [message for short in self.events for message in self._messages(short, start_s)]

    def shared_agents(self) -> set[int]:
        """Return the ids of agents shared with the instance, and so with other cases."""
        data = [
            short["instance-agent.set"] for short in self.events if "instance-agent.set" in short
        ]
        return {self._apart(agent["id"]) for agent in data}

    def own(self, body: Any, others_agents: set[int]) -> Any:
        """Return the body as if the case were alone: original ids, no agents of other cases."""
        if "allowed_agents" in body:
            own = [a for a in body["allowed_agents"] if a["id"] not in others_agents]
            body = body | {"allowed_agents": own}
        return self._together(body)

    def own_text(self, sentence: str) -> str:
        """Return the sentence with the case's original ids."""
        return re.sub(r"\d+", lambda found: str(int(found[0]) % APART), sentence)

    # from the short form to the event

    def _messages(self, short: Message, start_s: float) -> Iterator[Message]:
        attributes = dict(short)
        kind = next(iter(short))
        data = attributes.pop(kind)
        root = str(self._apart(attributes.pop("partitionkey", ROOT)))
        if kind == "chain":
            yield from self._chain(root, **data)
            return
        full = _DEFAULTS.get(kind, {}) | data
        full = self._with_ids(self._job(full, start_s) if kind == "job.started" else full)
        if (expires_in := full.pop("expires_in", None)) is not None:
            full["expires_at"] = _rfc3339(start_s + expires_in)
        if kind in ("agent.configured", "shared-agent.set"):
            full = self._configured(**full)
        yield event(kind, full, root, **attributes)

    def _chain(self, root: str, depth: int, project_id: int) -> Iterator[Message]:
        """Yield groups 1 to `depth`, each in the one before, and a project in the last."""
        path = [f"g{number}" for number in range(1, depth + 1)]
        for number in range(1, depth + 1):
            parent = number - 1 or None
            data = {"id": number, "parent_id": parent, "path": "/".join(path[:number])}
            yield event("group.set", self._with_ids(data), root)
        data = {"id": project_id, "group_id": depth, "path": "/".join([*path, "shop"])}
        yield event("project.set", self._with_ids(data), root)

    def _job(self, data: Message, start_s: float) -> Message:
        job = {"expires_in": DAY_S, "pipeline_id": 2000 + data["id"]} | data
        job["user"] = {"id": self._apart(1), "username": "root"} | data.get("user", {})
        job["token_sha256"] = digest(self.token(job.pop("token", f"job-{data['id']}")))
        name = job.get("environment")
        if isinstance(name, str):
            job["environment"] = {"name": name, "slug": "a-slug", "tier": "development"}
        return job

    def _configured(self, config: Message | None = None, **rest: Any) -> Message:
        lists = {name: rest.pop(name) for name in ("projects", "groups") if name in rest}
        access = {
            name: self._entries(entries) if isinstance(entries, list) else entries
            for name, entries in lists.items()
        }
        return rest | {"config": config or {"ci_access": access}}

    def _entries(self, entries: list[Any]) -> list[Any]:
        """Replace `fill: 499` by that many entries that name unknown projects."""
        full: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict) and "fill" in entry:
                full += [{"id": f"acme/none-{number}"} for number in range(entry["fill"])]
            else:
                full.append(self._with_ids(entry) if isinstance(entry, dict) else entry)
        return full

    def _with_ids(self, data: Message) -> Message:
        is_id = {name for name, value in data.items() if name in IDS and type(value) is int}
        return data | {name: self._apart(data[name]) for name in is_id if data[name]}

    def _apart(self, number: int) -> int:
        return self.number * APART + number

    def _together(self, body: Any) -> Any:
        match body:
            case dict():
                own = {
                    name: self._together(v) for name, v in body.items() if name != "configuration"
                }
                kept = {n: v % APART for n, v in own.items() if n == "id"}
                return body | own | kept
            case list():
                return [self._together(each) for each in body]
            case str():
                return self.own_text(body)
        return body

    # the comparison of the answer

    def faults(self, status: int, body: Any) -> list[str]:
        """Return how the answer differs from the expected one; empty if it does not."""
        expected = self.answer.get("status", HTTPStatus.OK)
        if status != expected:
            return [f"status {status}, not {expected}: {body}"]
        found = _table_fields(body)
        wanted = {name: value for name, value in self.answer.items() if name in _COMPARED}
        faults = [
            f"{name}: {found.get(name)}, not {value}"
            for name, value in wanted.items()
            if not _fits(found.get(name), value)
        ]
        if status == HTTPStatus.OK:
            faults += [error.message for error in SCHEMA.iter_errors(body)]
        return faults


_COMPARED: Final = {
    "exactly", "agents", "groups", "roles", "user", "job", "environment", "message", "reason",
}  # fmt: skip
_DEFAULTS: Final[dict[str, Message]] = {
    "group.set": {"parent_id": None},
    "project.set": {"group_id": None},
    "agent.set": {"name": "an-agent"},
    "shared-agent.set": {"name": "elsewhere"},
    "instance-agent.set": {"name": "shared"},
    "job.started": {"project_id": 7, "ref_protected": False},
}


def _rfc3339(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat()


def _table_fields(body: Any) -> dict[str, Any]:
    """Return the answer in the fields of the table."""
    if not body or "message" in body:
        return dict(body or {"message": "401 Unauthorized"})
    return {
        "exactly": body,
        "agents": [
            {
                "id": agent["id"],
                "project": agent["config_project"]["id"],
                "configuration": agent["configuration"],
            }
            for agent in body["allowed_agents"]
        ],
        "groups": [group["id"] for group in body["project"]["groups"]],
        "roles": body["user"]["roles_in_project"],
        "user": {name: body["user"][name] for name in ("id", "username")},
        "job": body["job"]["id"],
        "environment": body.get("environment", "absent"),
    }


def _fits(found: Any, wanted: Any) -> bool:
    """Return whether both are the same JSON; of agents, only fields in the table count."""
    match wanted, found:
        case [*wants], [*finds] if finds and isinstance(finds[0], dict):
            return len(wants) == len(finds) and all(map(_is_agent, finds, wants))
    return msgspec.json.encode(found, order="sorted") == msgspec.json.encode(wanted, order="sorted")


def _is_agent(found: Any, wanted: Any) -> bool:
    whole = wanted if isinstance(wanted, dict) else {"id": wanted}
    return _fits({name: found[name] for name in whole}, whole)


def load() -> list[Case]:
    """Return all cases of the table, numbered."""
    table = yaml.safe_load((FOLDER / "cases.yaml").read_text())
    for row in table["cases"]:
        unknown = row.keys() - {"name", "from", "base", "events", "answer", "at", "minimum_role"}
        unknown |= row["answer"].keys() - _COMPARED - {"status", "token", "reported"}
        assert not unknown, f"{row['name']}: unknown {unknown}"
        assert row["from"] in table["sources"], row["name"]
    return [
        Case(
            name=row["name"],
            source=table["sources"][row["from"]],
            events=([] if row.get("base") == "none" else table["base"]) + row.get("events", []),
            answer=row["answer"],
            at=row.get("at", 0),
            minimum_role=row.get("minimum_role", "developer"),
            number=number,
        )
        for number, row in enumerate(table["cases"], start=1)
    ]
