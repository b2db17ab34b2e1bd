"""What a job's token gets, and why: a pure function of the facts and the time.

The rules are GitLab's (`GET /api/v4/job/allowed_agents`), with the Developer rule of the request
that this product began as. A `Judge` applies them, once for all: the answer that is served and its
explanation are two ways to write down the same judgement.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from projector.domain import authorization_filter, fact_keys
from projector.domain import authorizations as ways
from projector.domain.authorization_filter import FilterContext
from projector.domain.authorizations import AgentAuthorization
from projector.domain.decision import (
    AgentAccess,
    Candidate,
    Decision,
    Membership,
    ProjectScope,
    Rule,
    UserRole,
)
from projector.domain.entities import Job, User
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key, Root
from projector.domain.responses import encode_response
from projector.domain.views import View

# Places, standings and reaches that a judge keeps, of some 2 KB each.
MAX_KEPT: Final = 20_000


class Evaluator:
    """Applies the rules as of `now` (milliseconds).

    What several tokens have in common is worked out for the first of them, and anew after a fact
    has changed that it may stand on: places after one of `facts.PLACES`, standings also after one
    of `facts.PEOPLE` and with time.
    """

    def __init__(self, facts: FactIndex, minimum_level: int, now: int) -> None:
        self.now = now
        self._facts = facts
        self._minimum_level = minimum_level
        self._scopes: dict[tuple[Root, int], ProjectScope] = {}
        self._roles: dict[tuple[Root, int, int], UserRole] = {}
        self._kept = 0
        self._place_version = facts.scope_version
        self._people_version = facts.role_version

    def at(self, now: int) -> "Evaluator":
        """This judge, as of another moment."""
        if self.now != now:
            self.now = now
            self._roles = {}
        return self

    def decide(self, key: Key, digest: str) -> Decision:
        """What the token with this digest, of the started job `key`, gets."""
        job = self._facts.job(key)
        return self._decide(fact_keys.root_of(key), job if job and job.digest == digest else None)

    def view(self, key: Key, digest: str) -> View:
        """What the record of the token is to say; its job `key` has started."""
        (root, number), job = fact_keys.job_of(key), self._facts.job(key)
        if job is None or job.digest != digest:
            ended = self._facts.ended_token(root, digest)
            assert ended is not None, key  # noqa: S101  the job had the token
            return View(digest, number, HTTPStatus.UNAUTHORIZED, b"", ended.expires_at, False)
        judgement = self._decide(root, job)
        body = encode_response(number, job, judgement)
        return View(digest, number, judgement.status, body, job.expires_at)

    def _decide(self, root: Root, job: Job | None) -> Decision:
        if job is None:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.TOKEN_REPLACED)
        if job.finished:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.JOB_FINISHED)
        if job.expires_at <= self.now:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.TOKEN_EXPIRED)
        self._drop_what_changed()
        place = self._scopes.get((root, job.project)) or self._look_at(root, job.project)
        if place.rule:
            return Decision(place.status, place.rule, place.reason, place)
        who = (root, job.project, job.user)
        standing = self._roles.get(who) or self._ask_for(root, place, job.user)
        reach = self._reach(place, standing, job)
        return Decision(standing.status, standing.barrier, "", place, standing, reach)

    def _drop_what_changed(self) -> None:
        facts = self._facts
        if self._place_version != facts.scope_version or self._kept > MAX_KEPT:
            self._scopes, self._roles, self._kept = {}, {}, 0
        elif self._people_version != facts.role_version:
            self._roles = {}
        self._place_version, self._people_version = facts.scope_version, facts.role_version

    def _look_at(self, root: Root, project: int) -> ProjectScope:
        self._kept += 1
        place = self._scopes[root, project] = _scope(self._facts, root, project)
        return place

    def _ask_for(self, root: Root, place: ProjectScope, user: int) -> UserRole:
        self._kept += 1
        memberships = tuple(_memberships(self._facts, root, place, user))
        in_force = (m.member.level for m in memberships if m.member.counts(self.now))
        level, known = max(in_force, default=0), self._facts.user(user)
        barrier = _block(known)
        status = HTTPStatus.FORBIDDEN if barrier else HTTPStatus.OK
        standing = UserRole(known, memberships, level, status, barrier)
        self._roles[root, place.project, user] = standing
        return standing

    def _reach(self, place: ProjectScope, standing: UserRole, job: Job) -> AgentAccess:
        """The agents, which depend on nothing of the job but what stands in the key."""
        context = authorization_filter.filter_context(job)
        alike = (context, standing.level, standing.barrier)
        return place.reaches.get(alike) or self._filter(place, alike)

    def _filter(
        self, place: ProjectScope, alike: tuple[FilterContext, int, Rule | None]
    ) -> AgentAccess:
        self._kept += 1
        context, level, barrier = alike
        reach = place.reaches[alike] = AgentAccess(
            tuple(
                Candidate(
                    found, barrier or refusing_rule(found[0], context, level, self._minimum_level)
                )
                for found in place.ways
            )
        )
        return reach


def decide(facts: FactIndex, key: Key, digest: str, minimum_level: int, now: int) -> Decision:
    """What the token with this digest, of the started job `key`, gets at `now` (milliseconds)."""
    return Evaluator(facts, minimum_level, now).decide(key, digest)


def refusing_rule(
    way: AgentAuthorization, context: FilterContext, level: int, minimum_level: int
) -> Rule | None:
    """What refuses a job this way to an agent, or None; its user has `level` in its project."""
    if level < minimum_level:
        return Rule.ROLE
    refused_by = authorization_filter.refusing_filter(way.configuration, context)
    return Rule(refused_by) if refused_by else None


def _scope(facts: FactIndex, root: Root, number: int) -> ProjectScope:
    if facts.is_removed(fact_keys.project_key(root, number)):
        return ProjectScope(number, HTTPStatus.UNAUTHORIZED, Rule.PROJECT_REMOVED)
    project = facts.project(root, number)
    if project is None:
        return _unavailable(number, Rule.PROJECT_UNKNOWN, f"project {number} is not known yet")
    groups, complete = facts.chain(root, project.group)
    if not complete:
        return _gap(facts, root, number, groups)
    found = ways.authorizations_by_agent(facts, root, number, groups).values()
    return ProjectScope(number, groups=tuple(groups), ways=tuple(found))


def _block(user: User | None) -> Rule | None:
    """A user without `user.set` is active."""
    return Rule.USER_NOT_ACTIVE if user and user.state != "active" else None


def _memberships(
    facts: FactIndex, root: Root, place: ProjectScope, user: int
) -> Iterable[Membership]:
    """The user's in the project and in the groups above it, also those that have expired."""
    groups = (fact_keys.group_key(root, group) for group in place.groups)
    for scope in (fact_keys.project_key(root, place.project), *groups):
        for key, member in facts.memberships(scope, user):
            yield Membership(key, member)


def _gap(facts: FactIndex, root: Root, project: int, groups: list[int]) -> ProjectScope:
    """What is wrong above the project, where the last of `groups` is the furthest one found."""
    if facts.group(root, groups[-1]):
        reason = f"the groups above project {project} run in a circle, or are too many"
        return _unavailable(project, Rule.GROUPS_IN_CIRCLE, reason, groups)
    reason = f"group {groups[-1]} above project {project} is not known yet"
    return _unavailable(project, Rule.GROUP_UNKNOWN, reason, groups)


def _unavailable(project: int, rule: Rule, reason: str, groups: Iterable[int] = ()) -> ProjectScope:
    return ProjectScope(project, HTTPStatus.SERVICE_UNAVAILABLE, rule, reason, tuple(groups))


# how it is written down for lookups
