"""The decision about one token, in parts that several tokens share."""

from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from msgspec import Raw, Struct, field

from projector.domain.authorizations import AgentAuthorization
from projector.domain.entities import Member, User
from projector.domain.fact_keys import Key
from projector.events.model import MAX_VIEW_BYTES


class ViewRules(NamedTuple):
    """The settings that decide about views: the level a user needs, and the bytes of a list.

    Named as in the partition's hash, so that commands compare them.
    """

    minimum_level: int
    max_view_bytes: int = MAX_VIEW_BYTES

    @property
    def by_name(self) -> dict[str, int]:
        """Each setting by its name."""
        return {"minimum_level": self.minimum_level, "max_view_bytes": self.max_view_bytes}


class Rule(StrEnum):
    """The rules that refuse a token, or an agent to it. Public: scripts read these names."""

    TOKEN_REPLACED = "token_replaced"  # noqa: S105  not a token
    JOB_FINISHED = "job_finished"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  not a token
    PROJECT_REMOVED = "project_removed"
    PROJECT_UNKNOWN = "project_unknown"
    GROUP_UNKNOWN = "group_unknown"
    GROUPS_IN_CIRCLE = "groups_in_circle"
    USER_NOT_ACTIVE = "user_not_active"
    VIEW_TOO_LARGE = "view_too_large"
    ROLE = "role"
    ENVIRONMENTS = "environments"
    PROTECTED_BRANCHES_ONLY = "protected_branches_only"


# No event makes a token live again that one of these refused.
FINAL_RULES: Final = (Rule.TOKEN_REPLACED, Rule.JOB_FINISHED, Rule.TOKEN_EXPIRED)


class Membership(NamedTuple):
    """One membership of the job's user, in the job's project or in a group above it."""

    key: Key
    member: Member


class Candidate(NamedTuple):
    """An agent that is authorized for the job's project, and the rule that refuses it, if any.

    Of its authorizations only the first is effective; the next is not tried if that is refused.
    """

    authorizations: list[AgentAuthorization]
    refused_by: Rule | None

    @property
    def effective(self) -> AgentAuthorization:
        """The authorization that counts."""
        return self.authorizations[0]


class SharedPart(Struct, frozen=True, kw_only=True):
    """A part of many decisions; `json` is its part of the body once `responses` has encoded it."""

    json: Raw | None = None


class ProjectScope(SharedPart, frozen=True):
    """The project of jobs and the groups above it.

    `rule` and `reason` explain why its jobs get `status` instead of a list, if the project or a
    group is the cause. `groups` are the ids of the groups, nearest first. `authorizations` has one
    list for each agent. `access` is by all that an `AgentAccess` depends on.
    """

    project: int = 0
    status: HTTPStatus = HTTPStatus.OK
    rule: Rule | None = None
    reason: str = ""
    groups: tuple[int, ...] = ()
    authorizations: tuple[list[AgentAuthorization], ...] = ()
    access: dict[tuple[Any, ...], "AgentAccess"] = field(default_factory=dict)


class UserRole(SharedPart, frozen=True):
    """A user's effective role in a project; `user` is None before the first `user.set`.

    `level` is the highest of the `memberships` that are in force. `block` is the rule that refuses
    the user everything; `status` is then not 200.
    """

    user: User | None = None
    memberships: tuple[Membership, ...] = ()
    level: int = 0
    status: HTTPStatus = HTTPStatus.OK
    block: Rule | None = None


class AgentAccess(SharedPart, frozen=True):
    """The agents of a project for all jobs that no filter distinguishes.

    Without `json` the list of those that are allowed is too large.
    """

    candidates: tuple[Candidate, ...] = ()


NO_SCOPE: Final = ProjectScope()
NO_ROLE: Final = UserRole()
NO_ACCESS: Final = AgentAccess()


class Decision(Struct, frozen=True):
    """The status of a token, and all that led to it, as far as it was evaluated.

    `rule` and `reason` explain why the status is not 200.
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
        """The user's memberships in the project and the groups above it, also expired ones."""
        return self.role.memberships

    @property
    def level(self) -> int:
        """The highest level of the memberships that are in force."""
        return self.role.level

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The agents that are authorized for the project."""
        return self.access.candidates
