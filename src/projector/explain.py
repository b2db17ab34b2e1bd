"""Writes down why a token gets what it gets: the judgement of the rules, and the events behind it.

Nothing is decided here: `rules.judge` and `rules.refusal` decide, for the answer as well.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from projector import absence, rules, sentences, things
from projector.explanation import (
    AgentPart,
    Environment,
    Event,
    Explanation,
    JobPart,
    MembershipPart,
    RolePart,
    ScopePart,
    UserPart,
    WayPart,
)
from projector.facts import Facts
from projector.lateness import readable
from projector.rules import Candidate, Judgement, Membership, Rule
from projector.things import Group, Job, Key, Project, Root
from projector.ways import Way

MAX_AGENTS: Final = 200
MAX_MEMBERSHIPS: Final = 50
MAX_LOST: Final = 20
MAX_CONFIGURATION_BYTES: Final = 16 * 1024


class Question(NamedTuple):
    """What is asked: why the job `key` gets what it gets, and may it use `agent`?

    `digest` is that of the token presented, the job's own unless given. `now` is in milliseconds.
    """

    key: Key
    minimum_level: int
    now: int
    agent: int | None = None
    digest: str | None = None


def explain(facts: Facts, partition: int, question: Question) -> Explanation:
    """The explanation; KeyError if the partition's facts hold nothing about the job."""
    if facts.get(question.key) is None and facts.job_of_token(question.digest or "") is None:
        raise KeyError(question.key)
    return _Explainer(facts, partition, question).explanation()


class _Explainer:
    """What all parts of one explanation are made from."""

    def __init__(self, facts: Facts, partition: int, question: Question) -> None:
        self._facts = facts
        self._partition = partition
        self._question = question
        self._root: Root = things.root_of(question.key)
        self._number = things.id_of(question.key)
        self._job = facts.job(question.key)
        self._digest = question.digest or (self._job.digest if self._job else "")
        self._judgement = self._judge()

    def explanation(self) -> Explanation:
        """All of it."""
        judgement = self._judgement
        reason = self._reason()
        asked = self._asked(reason)
        listed = [self._candidate(c) for c in judgement.candidates[:MAX_AGENTS]]
        return Explanation(
            sentence=self._sentence(reason, asked),
            status=judgement.status,
            rule=judgement.rule,
            reason=reason,
            at=readable(self._question.now),
            partition=self._partition,
            job=self._job_part(),
            project=self._project(),
            groups=self._groups(),
            user=self._user(),
            role=self._role(),
            agents=listed,
            more_agents=len(judgement.candidates) - len(listed),
            agent=asked,
        )

    def _judge(self) -> Judgement:
        question = self._question
        if self._job is None and not self._is_ended():
            return Judgement(HTTPStatus.UNAUTHORIZED, Rule.JOB_FINISHED)
        return rules.judge(
            self._facts, question.key, self._digest, question.minimum_level, question.now
        )

    def _is_ended(self) -> bool:
        return self._facts.ended_token(self._root, self._digest) is not None

    # sentences

    def _sentence(self, reason: str | None, asked: AgentPart | None) -> str:
        if asked:
            may = "may" if asked.verdict == "allowed" else "may not"
            return f"Job {self._number} {may} use agent {asked.id}: {asked.sentence}"
        if reason:
            return f"Job {self._number} gets {self._judgement.status.value}: {reason}"
        total = len(self._judgement.candidates)
        allowed = sum(not c.refused_by for c in self._judgement.candidates)
        return sentences.how_many(self._number, allowed, total)

    def _reason(self) -> str | None:
        judgement, job = self._judgement, self._job
        if judgement.rule is None:
            return None
        user = self._facts.user(job.user) if job else None
        return sentences.why_not(judgement, job, user)

    def _said(self, way: Way, rule: Rule | None) -> str:
        """What the way says of the job, or would have said."""
        job = self._job
        assert job is not None  # noqa: S101  only started jobs have ways
        if rule in (None, Rule.ENVIRONMENTS, Rule.PROTECTED_BRANCHES_ONLY):
            return sentences.of_way(way, rule, job, self._path(way.group))
        if rule == Rule.ROLE:
            level, needed = self._judgement.level, self._question.minimum_level
            return sentences.of_role(job, self._facts.user(job.user), level, needed)
        return self._reason() or ""

    def _path(self, group: int | None) -> str | None:
        known = None if group is None else self._facts.group(self._root, group)
        return known.path if known else None

    # the job, where it runs, and for whom

    def _job_part(self) -> JobPart | None:
        job = self._job
        if job is None:
            return None
        ended = things.token_key(self._root, self._digest)
        return JobPart(
            id=self._number,
            root=self._root,
            pipeline=job.pipeline,
            user=job.user,
            environment=_environment(job),
            ref_protected=job.ref_protected,
            expires_at=readable(job.expires_at),
            expired=job.expires_at <= self._question.now,
            finished=job.finished,
            event=self._event(ended if self._is_ended() else self._question.key),
        )

    def _project(self) -> ScopePart | None:
        if self._job is None:
            return None
        project = self._facts.project(self._root, self._job.project)
        return self._scope(things.project_key(self._root, self._job.project), project)

    def _groups(self) -> list[ScopePart]:
        project = self._job and self._facts.project(self._root, self._job.project)
        ids, _ = self._facts.chain(self._root, project.group if project else None)
        return [
            self._scope(things.group_key(self._root, group), self._facts.group(self._root, group))
            for group in ids
        ]

    def _scope(self, key: Key, data: Group | Project | None) -> ScopePart:
        return ScopePart(
            kind="group" if things.kind_of(key) == "group" else "project",
            id=things.id_of(key),
            known=data is not None,
            path=data.path if data else None,
            event=self._event(key),
        )

    def _user(self) -> UserPart | None:
        if self._job is None:
            return None
        known = self._facts.user(self._job.user)
        return UserPart(
            id=self._job.user,
            username=known.username if known else self._job.username,
            state=known.state if known else "active",
            event=self._event(things.user_key(self._job.user)),
        )

    # the role

    def _role(self) -> RolePart | None:
        judgement, needed = self._judgement, self._question.minimum_level
        if judgement.status not in (200, 403):
            return None
        listed = sorted(judgement.memberships, key=self._weight)
        return RolePart(
            level=judgement.level,
            role=sentences.role(judgement.level),
            required_level=needed,
            required_role=sentences.role(needed),
            suffices=judgement.level >= needed,
            memberships=[
                self._membership(m, decides=position == 0 and self._counts(m))
                for position, m in enumerate(listed[:MAX_MEMBERSHIPS])
            ],
            more=max(0, len(listed) - MAX_MEMBERSHIPS),
        )

    def _counts(self, membership: Membership) -> bool:
        return membership.member.counts(self._question.now)

    def _weight(self, membership: Membership) -> tuple[bool, int]:
        """Those in force first, the highest of them first; then they stay as they are: by scope."""
        return not self._counts(membership), -membership.member.level

    def _membership(self, membership: Membership, *, decides: bool) -> MembershipPart:
        scope, _ = things.membership_of(membership.key)
        member = membership.member
        return MembershipPart(
            scope="group" if things.kind_of(scope) == "group" else "project",
            scope_id=things.id_of(scope),
            via=things.via_of(membership.key),
            level=member.level,
            role=sentences.role(member.level),
            expires_at=None if member.expires_at is None else readable(member.expires_at),
            counts=self._counts(membership),
            decides=decides,
            event=self._event(membership.key),
        )

    # agents

    def _asked(self, reason: str | None) -> AgentPart | None:
        """The agent that is asked for, whether it reaches the project or not."""
        agent = self._question.agent
        if agent is None:
            return None
        for candidate in self._judgement.candidates:
            if candidate.winner.agent == agent:
                return self._candidate(candidate)
        if self._job is None or self._judgement.status not in (200, 403):
            return self._agent(agent, rule=self._judgement.rule, sentence=reason or "")
        found = absence.find(self._facts, self._root, agent, self._place(self._job))
        return self._agent(agent, rule=found.rule, sentence=found.sentence, absent=found)

    def _place(self, job: Job) -> list[Key]:
        groups = self._judgement.groups
        above = (things.group_key(self._root, group) for group in groups)
        return [things.project_key(self._root, job.project), *above]

    def _candidate(self, candidate: Candidate) -> AgentPart:
        sentence = self._said(candidate.winner, candidate.refused_by)
        return self._agent(
            candidate.winner.agent, candidate.refused_by, sentence, ways=candidate.ways
        )

    def _agent(
        self,
        agent: int,
        rule: str | None,
        sentence: str,
        ways: list[Way] | None = None,
        absent: absence.Absence | None = None,
    ) -> AgentPart:
        won = ways[0] if ways else None
        lost = ways[1:] if ways else []
        about = absence.about(self._facts, self._root, agent, won)
        left_out = (
            absence.left_out(self._facts, self._root, agent, self._place(self._job))
            if self._job and (ways or absent)
            else []
        )
        return AgentPart(
            id=agent,
            name=about.name,
            config_project=about.config_project,
            verdict="refused" if rule else "allowed",
            rule=rule,
            sentence=sentence,
            source=won.source if won else None,
            group=won.group if won else None,
            configuration=_shown(won),
            event=self._event(about.key),
            configuration_event=self._event(things.configuration_key(self._root, agent)),
            config_project_event=self._event_of_project(about.config_project),
            lost=[self._lost(way) for way in lost[:MAX_LOST]],
            left_out=left_out,
            grants=absent.grants if absent else [],
            more_grants=absent.more_grants if absent else 0,
        )

    def _lost(self, way: Way) -> WayPart:
        job, needed = self._job, self._question.minimum_level
        assert job is not None  # noqa: S101  only started jobs have ways
        rule = rules.refusal(way, job, self._judgement.level, needed)
        return WayPart(way.source, way.group, rule, self._said(way, rule))

    # events

    def _event_of_project(self, project: int | None) -> Event | None:
        return None if project is None else self._event(things.project_key(self._root, project))

    def _event(self, key: Key) -> Event | None:
        return event_of(self._facts, self._partition, key)


def event_of(facts: Facts, partition: int, key: Key) -> Event | None:
    """The event that last changed the thing, None if none came."""
    fact = facts.get(key)
    if fact is None:
        return None
    topic = things.TOPICS[things.kind_of(key)]
    return Event(topic, partition, fact.offset, readable(fact.timestamp))


def _environment(job: Job) -> Environment | None:
    found = job.environment
    return Environment(found.name, found.slug, found.tier) if found else None


def _shown(way: Way | None) -> dict[str, object] | None:
    if way is None or len(msgspec.json.encode(way.configuration)) > MAX_CONFIGURATION_BYTES:
        return None
    return way.configuration
