"""The fields of an explanation, which are also its JSON.

Public: the command line, the operators' page and scripts read these names. Identifiers (`status`,
`rule`, `verdict`, `source`) are stable; sentences are for people and may change. Times are RFC 3339
in UTC. Names and paths come from events: show them as text, never as markup.
"""

from typing import Any, Literal

from msgspec import Struct

Verdict = Literal["allowed", "refused"]


class EventRef(Struct, frozen=True):
    """The position in Kafka of the event that last changed an entity, and its record's time.

    For a replayed event, `offset` is that of the original record; `time` is that of the replay.
    """

    topic: str
    partition: int
    offset: int
    time: str


class ExplainedEnvironment(Struct, frozen=True):
    """The environment that the job deploys to."""

    name: str
    slug: str
    tier: str


class ExplainedJob(Struct, frozen=True):
    """The job. `event` is its start or its end, `root` its root namespace."""

    id: int
    root: str
    pipeline: int
    user: int
    environment: ExplainedEnvironment | None
    ref_protected: bool
    expires_at: str
    expired: bool
    finished: bool
    event: EventRef | None


class ExplainedScope(Struct, frozen=True):
    """The job's project, or a group above it; `known` is false before its event and once removed.

    `event` is None before the first event.
    """

    kind: Literal["project", "group"]
    id: int
    known: bool
    path: str | None
    event: EventRef | None


class ExplainedUser(Struct, frozen=True):
    """The job's user. Without a `user.set` (`event` is None) a user is active."""

    id: int
    username: str
    state: str
    event: EventRef | None


class ExplainedMembership(Struct, frozen=True):
    """One membership of the user in the project or in a group above it.

    It `counts` unless it has expired; the highest that counts `decides`.
    """

    scope: Literal["project", "group"]
    scope_id: int
    via: str
    level: int
    role: str
    expires_at: str | None
    counts: bool
    decides: bool
    event: EventRef | None


class ExplainedRole(Struct, frozen=True):
    """The user's role in the job's project. `more` memberships are not listed."""

    level: int
    role: str
    required_level: int
    required_role: str
    suffices: bool
    memberships: list[ExplainedMembership]
    more: int


class ExplainedAuthorization(Struct, frozen=True):
    """An authorization that is not effective; `rule` would refuse the job, None if allowed."""

    source: str
    group: int | None
    rule: str | None
    sentence: str


class ExplainedAgent(Struct, frozen=True):
    """An agent, whether the job may use it, and why.

    `rule` refused it; None if it is allowed. `source` and `group` are those of the effective
    authorization, None without one. `configuration` is its entry, None if that is too large to
    show. `lost` are less specific authorizations. `left_out` has a sentence for each entry that
    names the project or a group above it but does not count. `grants` is what the agent's file
    grants, only if the agent is not authorized; `more_grants` are not listed. For an agent of
    another root namespace its shared-agent is in the place of the file, and in both events.
    """

    id: int
    name: str | None
    config_project: int | None
    verdict: Verdict
    rule: str | None
    sentence: str
    source: str | None
    group: int | None
    configuration: dict[str, Any] | None
    event: EventRef | None
    configuration_event: EventRef | None
    config_project_event: EventRef | None
    lost: list[ExplainedAuthorization]
    left_out: list[str]
    grants: list[str]
    more_grants: int


class Explanation(Struct, frozen=True):
    """The reasons for the answer to the token of a job, as of `at`.

    `status` is that of a fresh partition; `rule` and `reason` explain why it is not 200.
    `sentence` answers the question. `groups` are those above the project, nearest first, as far as
    they are known. With 401 and 503, `role` is None and `agents` is empty: the rules end before
    them. `agents` are all that are authorized for the project, in the answer's order; `more_agents`
    are not listed. `agent` is the one that the question names. A job that ended before its start
    came has no `job`, `project` or `user`.
    """

    sentence: str
    status: int
    rule: str | None
    reason: str | None
    at: str
    partition: int
    job: ExplainedJob | None
    project: ExplainedScope | None
    groups: list[ExplainedScope]
    user: ExplainedUser | None
    role: ExplainedRole | None
    agents: list[ExplainedAgent]
    more_agents: int
    agent: ExplainedAgent | None


class StoredView(Struct, frozen=True):
    """The record that answers lookups; `version` is as in the header `View-Version`."""

    status: int
    version: str
    expires_at: str


class ExplanationReport(Struct, frozen=True):
    """An explanation, and the record that Redis serves.

    `view` is None if the token has no record. `agrees` is whether the record is the one that the
    explained facts lead to. `fresh_at` is when the partition was last known to be fresh, `age` the
    seconds since then. `notes` are further sentences: a stale partition, a record that differs.
    """

    explanation: Explanation
    view: StoredView | None
    agrees: bool
    fresh_at: str | None
    age: float | None
    notes: list[str]
