"""The context of an explanation: the question, the facts, the decision and its events.

The evaluator decides, as it does for the answer that is served.
"""

from functools import cached_property
from http import HTTPStatus
from typing import NamedTuple

from projector.domain import entities, evaluator, fact_keys
from projector.domain.decision import Decision, Rule, ViewRules
from projector.domain.entities import User
from projector.domain.fact_keys import Key, Root
from projector.domain.index.fact_index import FactIndex
from projector.domain.views import ViewId, view_id
from projector.events.timestamps import to_rfc3339
from projector.explain import messages
from projector.explain.model import EventRef


class Question(NamedTuple):
    """The question why the job `key` gets its answer, and whether it may use `agent`.

    `view_id` is the view in question, the job's current one unless given. `now` is in milliseconds.
    """

    key: Key
    rules: ViewRules
    now: int
    agent: int | None = None
    view_id: ViewId | None = None


class ExplanationContext:
    """All that the parts of one explanation share; KeyError if there is no fact about the job."""

    def __init__(self, facts: FactIndex, partition: int, question: Question) -> None:
        if (
            facts.get(question.key) is None
            and facts.job_of_view(question.view_id or ViewId("")) is None
        ):
            raise KeyError(question.key)
        self.facts = facts
        self.partition = partition
        self.question = question
        self.root: Root = fact_keys.root_of(question.key)
        self.job_id = fact_keys.id_of(question.key)
        self.job = facts.job(question.key)
        self.view_id = question.view_id or (
            view_id(question.key, self.job) if self.job else ViewId("")
        )

    @property
    def is_ended(self) -> bool:
        """Whether the token in question ended before its job."""
        return self.facts.ended_token(self.root, self.view_id) is not None

    @cached_property
    def decision(self) -> Decision:
        """The decision about the token."""
        if self.job is None and not self.is_ended:
            return Decision(HTTPStatus.UNAUTHORIZED, Rule.JOB_FINISHED)
        asked = self.question
        return evaluator.decide(self.facts, asked.key, self.view_id, asked.rules, asked.now)

    @property
    def user(self) -> User | None:
        """The job's user, if a `user.set` came."""
        return self.facts.user(self.job.user) if self.job else None

    @property
    def scopes(self) -> list[Key]:
        """The job's project, then the groups above it, nearest first."""
        if self.job is None:
            return []
        groups = (fact_keys.group_key(self.root, group) for group in self.decision.groups)
        return [fact_keys.project_key(self.root, self.job.project), *groups]

    @cached_property
    def reason(self) -> str | None:
        """The reason why the status is not 200; None if it is."""
        decision = self.decision
        return messages.refusal_sentence(decision, self.job, self.user) if decision.rule else None

    def event(self, key: Key) -> EventRef | None:
        """Return the event that last changed the entity, None if none came."""
        fact = self.facts.get(key)
        if fact is None:
            return None
        topic = entities.TOPIC_OF_KIND[fact_keys.kind_of(key)]
        return EventRef(topic, self.partition, fact.offset, to_rfc3339(fact.timestamp))
