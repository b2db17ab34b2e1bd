"""The decision about one token, in the parts that several tokens share."""

from enum import StrEnum
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct, field

from projector.domain.authorizations import AgentAuthorization
from projector.domain.entities import Member, User
from projector.domain.fact_keys import Key
from projector.domain.views import AllowedAgent
from projector.events.model import ROLES

# GitLab: doc/api/jobs.md, `roles_in_project`. The other levels of ROLES have no name there.
NAMED_ROLES: Final = ("guest", "planner", "reporter", "developer", "maintainer", "owner")


class Rule(StrEnum):
    """What refuses a token, or an agent to it. Public: scripts and pages read these names."""

    TOKEN_REPLACED = "token_replaced"  # noqa: S105  no token
    JOB_FINISHED = "job_finished"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  no token
    PROJECT_REMOVED = "project_removed"
    PROJECT_UNKNOWN = "project_unknown"
    GROUP_UNKNOWN = "group_unknown"
    GROUPS_IN_CIRCLE = "groups_in_circle"
    USER_NOT_ACTIVE = "user_not_active"
    ROLE = "role"
    ENVIRONMENTS = "environments"
    PROTECTED_BRANCHES_ONLY = "protected_branches_only"


# No event makes such a token live again.
FINAL_RULES: Final = (Rule.TOKEN_REPLACED, Rule.JOB_FINISHED, Rule.TOKEN_EXPIRED)


class Membership(NamedTuple):
    """One membership of the job's user, in the job's project or in a group above it."""

    key: Key
    member: Member


class Candidate(NamedTuple):
    """An agent that reaches the job's project, and what refuses it, if anything does.

    The first of its ways wins; there is no falling back to another.
    """

    authorizations: list[AgentAuthorization]
    refused_by: Rule | None

    @property
    def effective(self) -> AgentAuthorization:
        """The way that counts."""
        return self.authorizations[0]


class UserRole(Struct, frozen=True, dict=True):
    """What a user is in a place; `user` is None if no `user.set` came.

    `level` is the highest of the `memberships` that are in force. `barrier` refuses everything, and
    then `status` is not 200.
    """

    user: User | None = None
    memberships: tuple[Membership, ...] = ()
    level: int = 0
    status: HTTPStatus = HTTPStatus.OK
    barrier: Rule | None = None

    @cached_property
    def roles(self) -> Raw:
        """The names of the roles up to the user's own, as JSON."""
        return _json([name for name in NAMED_ROLES if ROLES[name] <= self.level])


class AgentAccess(Struct, frozen=True, dict=True):
    """The agents that reach a place, for jobs that are alike to every filter."""

    candidates: tuple[Candidate, ...] = ()

    @cached_property
    def allowed(self) -> Raw:
        """The agents that may be used, as JSON."""
        return _json([_allowed(c.effective) for c in self.candidates if not c.refused_by])


class ProjectScope(Struct, frozen=True, dict=True):
    """The project of jobs and the groups above it: what all jobs there have in common.

    `rule` and `reason` say why its jobs get `status` and no list, where the place is to blame.
    `groups` are the ids of those above it, nearest first; `ways` are of every agent that comes
    here. Reaches are by what they were judged for.
    """

    project: int = 0
    status: HTTPStatus = HTTPStatus.OK
    rule: Rule | None = None
    reason: str = ""
    groups: tuple[int, ...] = ()
    ways: tuple[list[AgentAuthorization], ...] = ()
    reaches: dict[tuple[Any, ...], AgentAccess] = field(default_factory=dict)

    @cached_property
    def part(self) -> Raw:
        """The project and its groups, as JSON."""
        return _json({"id": self.project, "groups": [{"id": group} for group in self.groups]})


NO_SCOPE: Final = ProjectScope()


NO_ROLE: Final = UserRole()


NO_ACCESS: Final = AgentAccess()


class Decision(Struct, frozen=True):
    """What the rules make of a token: its status, and what led there, as far as it was looked at.

    `rule` and `reason` say why the status is not 200.
    """

    status: HTTPStatus
    rule: Rule | None = None
    reason: str = ""
    scope: ProjectScope = NO_SCOPE
    role: UserRole = NO_ROLE
    access: AgentAccess = NO_ACCESS

    @property
    def groups(self) -> tuple[int, ...]:
        """The ids of the groups above the project, nearest first."""
        return self.scope.groups

    @property
    def memberships(self) -> tuple[Membership, ...]:
        """Those of the user in the place, also those that have expired."""
        return self.role.memberships

    @property
    def level(self) -> int:
        """The highest of the memberships that are in force."""
        return self.role.level

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The agents that reach the project."""
        return self.access.candidates


def _json(part: object) -> Raw:
    return Raw(msgspec.json.encode(part))


def _allowed(way: AgentAuthorization) -> AllowedAgent:
    return {
        "id": way.agent,
        "config_project": {"id": way.config_project},
        "configuration": way.configuration,
    }
