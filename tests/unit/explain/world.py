"""A company with the jobs and agents that explanations are about."""

from projector.domain.decision import ViewRules
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection
from projector.explain.context import Question
from projector.explain.job import explain_job
from projector.explain.model import EventRef, ExplainedAgent, Explanation
from tests import builders
from tests.builders import NOW, Message, digest

PRODUCTION = {"name": "production", "slug": "production", "tier": "production"}


COMPANY: list[Message] = [
    builders.group(3, path="acme"),
    builders.group(12, 3, path="acme/platform"),
    builders.project(7, 12, path="acme/platform/shop"),
    builders.project(8, 3, path="acme/web"),
    builders.member(1, "developer", group_id=3),
    builders.agent(5, 7),
    builders.agent(6, 8),
]


STARTED = builders.started(9, 7)
IN_PRODUCTION = builders.started(9, 7, environment=PRODUCTION)
UNREADABLE = {"id": "acme", "access_as": {}}


class World:
    """Events in Kafka's order; `event` returns the position of one of them."""

    def __init__(self, *messages: Message, minimum_level: int = 30) -> None:
        self.projection = Projection(0, Policy(1, minimum_level, 1000))
        self.level = minimum_level
        self.feed = builders.Feed()
        self.sent: list[tuple[Message, EventRef]] = []
        for message in messages:
            self.apply(message)

    def apply(self, message: Message) -> None:
        record = self.feed(message, NOW - 1000 + len(self.sent))
        self.projection.apply(record)
        time = f"2027-01-15T07:59:59.{len(self.sent):03}+00:00"
        self.sent.append((message, EventRef(record.topic, 0, record.offset, time)))

    def event(self, message: Message) -> EventRef:
        return next(event for sent, event in reversed(self.sent) if sent == message)

    def explain(
        self, agent: int | None = None, job: int = 9, now: int = NOW, token: str | None = None
    ) -> Explanation:
        key = Key(f"3/job/{job}")
        question = Question(
            key, ViewRules(self.level), now, agent, digest(token) if token else None
        )
        return explain_job(self.projection.facts, 0, question)

    def agent(self, number: int) -> ExplainedAgent:
        found = self.explain(number).agent
        assert found is not None
        return found
