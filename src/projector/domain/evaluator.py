"""Evaluation of GitLab's rules for one view: a pure function of the facts and the time.

The rules are those of `GET /api/v4/job/allowed_agents`, and the minimum role of this product. The
answer that is served and its explanation are two texts of the same decision.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Final

from projector.domain import authorization_filter, fact_keys
from projector.domain.authorization_filter import FilterContext
from projector.domain.authorizations import AgentAuthorization, authorizations_by_agent
from projector.domain.decision import (
    AgentAccess,
    Candidate,
    Decision,
    Membership,
    ProjectScope,
    Rule,
    UserRole,
    ViewRules,
)
from projector.domain.entities import Job, User
from projector.domain.fact_keys import Key, Root
from projector.domain.index.fact_index import FactIndex
from projector.domain.responses import encode_agents
from projector.domain.views import ViewId, view_id

# Shared parts that an evaluator caches; about 2 KB each. A larger list of agents counts as several.
MAX_CACHED: Final = 20_000
PART_BYTES: Final = 2048

# All of a job and its user that an `AgentAccess` depends on, within one project.
AccessKey = tuple[FilterContext, int, Rule | None]


class Evaluator:
    """Evaluates the rules as of `now` (milliseconds), caching what several tokens share.

    A change of a fact of `fact_index.SCOPE_KINDS` empties the cache. A change of `ROLE_KINDS`, or
    of the time, drops the roles only. `too_large` counts the decisions since it was last set to 0
    that refused a list as too large; the latest was about `large_project`.
    """

    def __init__(self, facts: FactIndex, rules: ViewRules, now: int) -> None:
        self.now = now
        self.too_large = 0
        self.large_project = 0
        self._facts = facts
        self._rules = rules
        self._scopes: dict[tuple[Root, int], ProjectScope] = {}
        self._roles: dict[tuple[Root, int, int], UserRole] = {}
        self._cached = 0
        self._scope_version = facts.scope_version
        self._role_version = facts.role_version

    def at(self, now: int) -> "Evaluator":
        """Set the time, and return this evaluator."""
        if self.now != now:
            self.now = now
            self._roles = {}
        return self

    def decide(self, key: Key, id_: ViewId) -> Decision:
        """Decide about this view of the started job `key`."""
        job = self._facts.job(key)
        if job is None or view_id(key, job) != id_:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.TOKEN_REPLACED)
        return self.decide_job(fact_keys.root_of(key), job)

    def decide_job(self, root: Root, job: Job) -> Decision:
        """Decide about the job's current view."""
        if job.finished:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.JOB_FINISHED)
        if job.expires_at <= self.now:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.TOKEN_EXPIRED)
        facts = self._facts
        if self._scope_version != facts.scope_version or self._role_version != facts.role_version:
            self._drop_outdated()
        scope = self._scopes.get((root, job.project)) or self._find_scope(root, job.project)
        if scope.rule:
            return Decision(scope.status, scope.rule, scope.reason, scope)
        role_key = (root, job.project, job.user)
        role = self._roles.get(role_key) or self._find_role(root, scope, job.user)
        access_key = (authorization_filter.filter_context(job), role.level, role.block)
        access = scope.access.get(access_key) or self._find_access(scope, access_key)
        if access.json is None:
            return self._refuse_large(scope)
        return Decision(role.status, role.block, "", scope, role, access)

    def _refuse_large(self, scope: ProjectScope) -> Decision:
        self.too_large += 1
        self.large_project = scope.project
        reason = (
            f"the agents of project {scope.project} take more than {self._rules.max_view_bytes} "
            "bytes; grant it fewer, or with smaller configurations"
        )
        return Decision(HTTPStatus.SERVICE_UNAVAILABLE, Rule.VIEW_TOO_LARGE, reason, scope)

    def _drop_outdated(self) -> None:
        facts = self._facts
        if self._scope_version != facts.scope_version:
            self._scopes, self._cached = {}, 0
        self._roles = {}
        self._scope_version, self._role_version = facts.scope_version, facts.role_version

    def _count_part(self, size: int = 0) -> None:
        """Count a part of `size` bytes that is to be cached; empty a full cache before."""
        if self._cached >= MAX_CACHED:
            self._scopes, self._roles, self._cached = {}, {}, 0
        self._cached += 1 + size // PART_BYTES

    def _find_scope(self, root: Root, project: int) -> ProjectScope:
        self._count_part()
        scope = self._scopes[root, project] = _scope(self._facts, root, project)
        return scope

    def _find_role(self, root: Root, scope: ProjectScope, user: int) -> UserRole:
        self._count_part()
        role = self._roles[root, scope.project, user] = _role(
            self._facts, root, scope, user, self.now
        )
        return role

    def _find_access(self, scope: ProjectScope, key: AccessKey) -> AgentAccess:
        context, level, block = key
        needed = self._rules.minimum_level
        candidates = tuple(
            Candidate(found, block or refusing_rule(found[0], context, level, needed))
            for found in scope.authorizations
        )
        json = encode_agents(candidates, self._rules.max_view_bytes)
        self._count_part(len(json) if json else 0)
        access = scope.access[key] = AgentAccess(candidates, json=json)
        return access


def decide(facts: FactIndex, key: Key, id_: ViewId, rules: ViewRules, now: int) -> Decision:
    """Decide once about a view of the started job `key`, as of `now` (milliseconds)."""
    return Evaluator(facts, rules, now).decide(key, id_)


def refusing_rule(
    authorization: AgentAuthorization, context: FilterContext, level: int, minimum_level: int
) -> Rule | None:
    """Return the rule that refuses a job whose user has `level` in its project, or None."""
    if level < minimum_level:
        return Rule.ROLE
    refused_by = authorization_filter.refusing_filter(authorization.configuration, context)
    return Rule(refused_by) if refused_by else None


# the project and the groups above it


def _scope(facts: FactIndex, root: Root, number: int) -> ProjectScope:
    if facts.is_removed(fact_keys.project_key(root, number)):
        return ProjectScope(number, HTTPStatus.UNAUTHORIZED, Rule.PROJECT_REMOVED)
    project = facts.project(root, number)
    if project is None:
        return _unavailable(number, Rule.PROJECT_UNKNOWN, f"project {number} is not known yet")
    groups, complete = facts.chain(root, project.group)
    if not complete:
        return _incomplete(facts, root, number, groups)
    found = authorizations_by_agent(facts, root, number, groups).values()
    return ProjectScope(number, groups=tuple(groups), authorizations=tuple(found))


def _incomplete(facts: FactIndex, root: Root, project: int, groups: list[int]) -> ProjectScope:
    """The scope where the chain breaks at the last of `groups`, or is circular."""
    if facts.group(root, groups[-1]):
        reason = f"the groups above project {project} run in a circle, or are too many"
        return _unavailable(project, Rule.GROUPS_IN_CIRCLE, reason, groups)
    reason = f"group {groups[-1]} above project {project} is not known yet"
    return _unavailable(project, Rule.GROUP_UNKNOWN, reason, groups)


def _unavailable(project: int, rule: Rule, reason: str, groups: Iterable[int] = ()) -> ProjectScope:
    return ProjectScope(project, HTTPStatus.SERVICE_UNAVAILABLE, rule, reason, tuple(groups))


# the user's role there


def _role(facts: FactIndex, root: Root, scope: ProjectScope, user: int, now: int) -> UserRole:
    memberships = tuple(_memberships(facts, root, scope, user))
    in_force = (m.member.level for m in memberships if m.member.is_in_force(now))
    known = facts.user(user)
    block = _block(known)
    status = HTTPStatus.FORBIDDEN if block else HTTPStatus.OK
    return UserRole(known, memberships, max(in_force, default=0), status, block)


def _block(user: User | None) -> Rule | None:
    """A user without `user.set` is active."""
    return Rule.USER_NOT_ACTIVE if user and user.state != "active" else None


def _memberships(
    facts: FactIndex, root: Root, scope: ProjectScope, user: int
) -> Iterator[Membership]:
    """The user's memberships in the project and the groups above it, also expired ones."""
    groups = (fact_keys.group_key(root, group) for group in scope.groups)
    for key_of_scope in (fact_keys.project_key(root, scope.project), *groups):
        for key, member in facts.memberships(key_of_scope, user):
            yield Membership(key, member)
