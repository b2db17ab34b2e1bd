"""One question about one token: the facts, the judgement, and the events behind both.

Nothing is decided here: `rules.judge` decides, for the answer as well.
"""

from functools import cached_property
from http import HTTPStatus
from typing import NamedTuple

from projector.domain import entities, evaluator, fact_keys
from projector.domain.authorizations import AgentAuthorization
from projector.domain.decision import Decision, Rule
from projector.domain.entities import Job, User
from projector.domain.fact_index import FactIndex
from projector.domain.fact_keys import Key, Root
from projector.events.timestamps import to_rfc3339
from projector.explain import messages
from projector.explain.model import EventRef


class Question(NamedTuple):
    """What is asked: why the job `key` gets what it gets, and may it use `agent`?

    `digest` is that of the token presented, the job's own unless given. `now` is in milliseconds.
    """

    key: Key
    minimum_level: int
    now: int
    agent: int | None = None
    digest: str | None = None


class ExplanationContext:
    """What all parts of one explanation are made from; KeyError if no fact knows the job."""

    def __init__(self, facts: FactIndex, partition: int, question: Question) -> None:
        if facts.get(question.key) is None and facts.job_of_token(question.digest or "") is None:
            raise KeyError(question.key)
        self.facts = facts
        self.partition = partition
        self.question = question
        self.root: Root = fact_keys.root_of(question.key)
        self.number = fact_keys.id_of(question.key)
        self.job = facts.job(question.key)
        self.digest = question.digest or (self.job.digest if self.job else "")

    @property
    def is_ended(self) -> bool:
        """Whether the token ended before its job."""
        return self.facts.ended_token(self.root, self.digest) is not None

    @cached_property
    def judgement(self) -> Decision:
        """What the rules say of the token."""
        if self.job is None and not self.is_ended:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.JOB_FINISHED)
        asked = self.question
        return evaluator.decide(self.facts, asked.key, self.digest, asked.minimum_level, asked.now)

    @property
    def user(self) -> User | None:
        """The job's user, if a `user.set` came."""
        return self.facts.user(self.job.user) if self.job else None

    @property
    def place(self) -> list[Key]:
        """The job's project, then the groups above it, nearest first."""
        if self.job is None:
            return []
        groups = (fact_keys.group_key(self.root, group) for group in self.judgement.groups)
        return [fact_keys.project_key(self.root, self.job.project), *groups]

    @cached_property
    def reason(self) -> str | None:
        """Why the status is not 200, None if it is."""
        judgement = self.judgement
        return messages.refusal_sentence(judgement, self.job, self.user) if judgement.rule else None

    def said(self, job: Job, way: AgentAuthorization, rule: Rule | None) -> str:
        """What the way says of the job, or would have said."""
        if rule in (None, Rule.ENVIRONMENTS, Rule.PROTECTED_BRANCHES_ONLY):
            group = None if way.group is None else self.facts.group(self.root, way.group)
            return messages.authorization_sentence(way, rule, job, group.path if group else None)
        if rule == Rule.ROLE:
            level, needed = self.judgement.level, self.question.minimum_level
            return messages.role_sentence(job, self.user, level, needed)
        return self.reason or ""

    def event(self, key: Key) -> EventRef | None:
        """The event that last changed the thing, None if none came."""
        return event_ref(self.facts, self.partition, key)


def event_ref(facts: FactIndex, partition: int, key: Key) -> EventRef | None:
    """The event that last changed the thing, None if none came."""
    fact = facts.get(key)
    if fact is None:
        return None
    topic = entities.TOPIC_OF_KIND[fact_keys.kind_of(key)]
    return EventRef(topic, partition, fact.offset, to_rfc3339(fact.timestamp))
