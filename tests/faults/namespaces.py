"""Root namespaces that produce events: seeded random ones, and ones that a scenario scripts.

Every id begins with its root's, so that no two roots share an entity. Events have the digests of
tokens; the tokens themselves stay inside the suite.
"""

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, NamedTuple

from projector.domain.views import ViewId
from projector.events.partitioning import partition_of
from tests import builders
from tests.integration.deployment import PARTITIONS

Event = dict[str, Any]

ROLES: Final = ("guest", "reporter", "developer", "developer", "maintainer")
ENVIRONMENT: Final = {"name": "review/7", "slug": "review-7", "tier": "development"}
LIVE_JOBS: Final = 10
TOKEN_LIFE_S: Final = 3600.0
SHORT_LIFE_S: Final = (1.0, 2.5)


class Token(NamedTuple):
    """A job's token, with the job and root that messages name instead."""

    secret: str
    job: int
    root: str

    @property
    def digest(self) -> ViewId:
        return builders.digest(self.secret)


def root_ids(per_partition: int, start: int = 100) -> list[str]:
    """Choose root namespaces, the same number in each partition."""
    found: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}
    number = start
    while any(len(ids) < per_partition for ids in found.values()):
        ids = found[partition_of(str(number), PARTITIONS)]
        if len(ids) < per_partition:
            ids.append(str(number))
        number += 1
    return [root for ids in found.values() for root in ids]


def instant(seconds_from_now: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds_from_now, UTC).isoformat()


class RandomNamespace:
    """One root namespace with groups in chains, projects, agents, members, users and jobs."""

    def __init__(self, root: str, seed: int) -> None:
        self.root = root
        # Whether memberships and tokens expire, which servers judge by their own clocks.
        self.expiries = True
        self.partition = partition_of(root, PARTITIONS)
        self.dice = Random(f"{seed}/{root}")
        self.tokens: dict[str, Token] = {}
        self._base = int(root) * 10_000
        self._top = int(root)
        self._groups = [self._id(n) for n in (1, 2, 3)]
        self.projects = [self._id(n) for n in (11, 12, 13)]
        self._users = [self._id(n) for n in (21, 22, 23)]
        self._agents = [self._id(n) for n in (31, 32, 33, 34, 35)]
        self._jobs = 0
        self._live: dict[int, tuple[int, int]] = {}
        self._sequences = 0
        self._sequenced: deque[Event] = deque(maxlen=20)
        self._due: deque[Event] = deque(self._foundation())

    def next(self) -> Event:
        """Return the next event."""
        if self._due:
            return self._due.popleft()
        kinds, weights = zip(*self._kinds(), strict=True)
        event: Event = self.dice.choices(kinds, weights)[0]()
        return event

    def _kinds(self) -> Iterator[tuple[Any, int]]:
        yield self._job_started, 24 if len(self._live) < LIVE_JOBS else 6
        if len(self._live) > LIVE_JOBS // 2:
            yield self._job_finished, 20
            yield self._job_started_again, 5
        yield self._member_set, 14
        if self.expiries:
            yield self._member_for_a_moment, 4
        yield self._member_removed, 8
        yield self._agent_set, 8
        yield self._agent_removed, 4
        yield self._project_removed, 1
        yield self._group_moved, 3
        yield self._user_set, 4
        yield self._sequenced_event, 8
        if self._sequenced:
            yield self._overtaken_event, 4

    def _id(self, number: int) -> int:
        return self._base + number

    def _foundation(self) -> Iterator[Event]:
        first, second, third = self._groups
        yield builders.group(self._top, root=self.root)
        for group, parent in ((first, self._top), (second, first), (third, self._top)):
            yield builders.group(group, parent, root=self.root)
        for project, group in zip(self.projects, (second, first, third), strict=True):
            yield builders.project(project, group, root=self.root)
        for user in self._users:
            yield builders.user(user, root=self.root)
            yield builders.member(user, "developer", group_id=self._top, root=self.root)
        for number, agent in enumerate(self._agents):
            yield builders.agent(agent, self.projects[number % 3], root=self.root)

    # jobs

    def _new_token(self, job: int) -> str:
        secret = f"token-{job}-{self.dice.randbytes(6).hex()}"
        token = Token(secret, job, self.root)
        self.tokens[token.digest] = token
        return secret

    def _job_started(self) -> Event:
        self._jobs += 1
        job = self._id(1000 + self._jobs)
        self._live[job] = self.dice.choice(self.projects), self.dice.choice(self._users)
        return self._start(job)

    def _job_started_again(self) -> Event:
        return self._start(self.dice.choice(list(self._live)))

    def _start(self, job: int) -> Event:
        project, user = self._live[job]
        brief = self.dice.random() < 0.05 and self.expiries
        life = self.dice.uniform(*SHORT_LIFE_S) if brief else TOKEN_LIFE_S
        environment = self.dice.choice([None, ENVIRONMENT])
        return builders.started(
            job, project, user, token=self._new_token(job), expires_at=instant(life),
            environment=environment, root=self.root,
        )  # fmt: skip

    def _job_finished(self) -> Event:
        job = self.dice.choice(list(self._live))
        del self._live[job]
        return builders.removed("job", job, root=self.root)

    # memberships

    def _scope(self) -> dict[str, int]:
        if self.dice.random() < 0.5:
            return {"project_id": self.dice.choice(self.projects)}
        return {"group_id": self.dice.choice([self._top, *self._groups])}

    def _member_set(self) -> Event:
        user, role = self.dice.choice(self._users), self.dice.choice(ROLES)
        return builders.member(user, role, **self._scope(), root=self.root)

    def _member_for_a_moment(self) -> Event:
        ends = instant(self.dice.uniform(*SHORT_LIFE_S))
        user = self.dice.choice(self._users)
        return builders.member(
            user, "maintainer", **self._scope(), via="share:9", expires_at=ends, root=self.root
        )

    def _member_removed(self) -> Event:
        where = {"user_id": self.dice.choice(self._users), "via": "direct", **self._scope()}
        return builders.event("member.removed", where, self.root)

    def _user_set(self) -> Event:
        state = self.dice.choice(["active", "active", "blocked"])
        return builders.user(self.dice.choice(self._users), state, root=self.root)

    # agents, projects, groups

    def _agent_set(self) -> Event:
        agent, project = self.dice.choice(self._agents), self.dice.choice(self.projects)
        return builders.agent(agent, project, root=self.root)

    def _agent_removed(self) -> Event:
        return builders.removed("agent", self.dice.choice(self._agents), root=self.root)

    def _project_removed(self) -> Event:
        """Remove a project; set it again, with a member, by the next events."""
        project, group = self.dice.choice(self.projects), self.dice.choice(self._groups)
        user = self.dice.choice(self._users)
        self._due += [
            self._agent_set(),
            builders.project(project, group, root=self.root),
            builders.member(user, "developer", project_id=project, root=self.root),
        ]
        return builders.removed("project", project, root=self.root)

    def _group_moved(self) -> Event:
        first, second, third = self._groups
        parents = {first: [self._top], second: [first, self._top, third], third: [self._top, first]}
        group = self.dice.choice([second, third])
        return builders.group(group, self.dice.choice(parents[group]), root=self.root)

    # events with a sequence, of memberships and agents that no other event changes

    def _sequenced_event(self) -> Event:
        self._sequences += self.dice.randint(1, 3)
        event = self._sequenced_agent() if self.dice.random() < 0.3 else self._sequenced_member()
        event["sequence"] = str(self._sequences)
        self._sequenced.append(event)
        return event

    def _sequenced_agent(self) -> Event:
        if self.dice.random() < 0.3:
            return builders.removed("agent", self._id(36), root=self.root)
        return builders.agent(self._id(36), self.dice.choice(self.projects), root=self.root)

    def _sequenced_member(self) -> Event:
        where = {"project_id": self.dice.choice(self.projects), "via": "share:5"}
        user = self.dice.choice(self._users)
        if self.dice.random() < 0.4:
            return builders.event("member.removed", {"user_id": user, **where}, self.root)
        return builders.member(user, "developer", **where, root=self.root)

    def _overtaken_event(self) -> Event:
        """Repeat an earlier event; a newer one of the same entity may have come since."""
        return self.dice.choice(list(self._sequenced))


class ScriptedNamespace(NamedTuple):
    """A root with one job, one agent and one member, whose events a scenario sends itself."""

    root: str

    @property
    def partition(self) -> int:
        return partition_of(self.root, PARTITIONS)

    @property
    def number(self) -> int:
        return int(self.root)

    @property
    def agent(self) -> int:
        return self.number * 10_000 + 5

    @property
    def token(self) -> Token:
        return Token(f"scripted-{self.root}", self.number * 10_000 + 9, self.root)

    def another_token(self, number: int = 1) -> Token:
        return Token(f"scripted-again-{number}-{self.root}", self.token.job + number, self.root)

    def started(self, token: Token) -> Event:
        return builders.started(
            token.job, self.number, self.number, token=token.secret,
            expires_at=instant(TOKEN_LIFE_S), root=self.root,
        )  # fmt: skip

    def finished(self, token: Token) -> Event:
        return builders.event("job.finished", {"id": token.job}, self.root)

    def foundation(self) -> list[Event]:
        return [
            builders.group(self.number, root=self.root),
            builders.project(self.number, self.number, root=self.root),
            builders.agent(self.agent, self.number, root=self.root),
            self.granted(),
        ]

    def granted(self, role: str = "developer") -> Event:
        return builders.member(self.number, role, project_id=self.number, root=self.root)

    def revoked(self) -> Event:
        where = {"user_id": self.number, "project_id": self.number}
        return builders.event("member.removed", where, self.root)
