"""Expected answers: which answer is allowed at which time, computed by the oracle alone.

The three topics of a root need not be in step, so an answer may combine a state of each. An answer
with an agent needs three conditions, one of each topic: the token is alive (job-lifecycle), its
user may use agents in the project (membership), the project has the agent (agent-config). Each
condition holds for spans of time. A span begins when its event was sent, and ends when Kafka had
acknowledged the event that ended it.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.faults.namespaces import Event
from tests.faults.observer import Lookup
from tests.faults.traffic import History, SentEvent
from tests.oracle import DEVELOPER, Oracle, milliseconds

# Seconds of the wall clock at second 0 of the monotonic clock.
EPOCH: Final = time.time() - time.monotonic()
# Allowance (seconds) beyond the bound for clocks that are read at different times.
TOLERANCE_S: Final = 1.0

EXPIRY: Final = "expiry"

Pair = tuple[int, int]


@dataclass
class Span:
    """The time from `opened` until `closed` in which a condition held, ended `by` an event.

    That event was sent at `ending`.
    """

    opened: float
    closed: float = math.inf
    by: str = ""
    ending: float = math.inf


@dataclass
class Spans:
    """All spans of one condition; changes come in the order of their root's events."""

    spans: list[Span] = field(default_factory=list)

    def update(self, holds: bool, change: SentEvent) -> None:
        """Open or close the last span if the change made the condition true or false."""
        is_open = bool(self.spans) and self.spans[-1].closed == math.inf
        if holds and not is_open:
            self.spans.append(Span(change.sent))
        elif is_open and not holds:
            self.spans[-1].closed, self.spans[-1].ending = change.acked, change.sent
            self.spans[-1].by = describe(change.event)

    def overlaps(self, earliest: float, latest: float) -> bool:
        """Return whether the condition held at any time between the two."""
        return any(span.opened <= latest and span.closed >= earliest for span in self.spans)

    def hold_throughout(self, earliest: float, latest: float) -> bool:
        """Return whether the condition held from before the one until after the other.

        What ends by its own expiry counts as not: servers read the clock at other moments.
        """
        return any(
            span.opened < earliest and latest < span.ending and not span.by.startswith(EXPIRY)
            for span in self.spans
        )

    def last_end(self, before: float) -> Span | None:
        """Return the last span that had ended by then."""
        return next((s for s in reversed(self.spans) if s.closed <= before), None)


class TokenLife(NamedTuple):
    """A token: its job.started, when it was alive, and the span in which 401 is wrong."""

    start: Event
    sent: float
    alive: Spans
    no_401_from: float
    no_401_until: float


def describe(event: Event) -> str:
    """Return the event in a few words, without a token or its digest."""
    shown = {name: value for name, value in event["data"].items() if name != "token_sha256"}
    return f"{event['type']} {shown}"


def _expiry(moment: int) -> SentEvent:
    """Return a change without event just after `moment` (ms), for what expires then."""
    at = (moment + 1) / 1000 - EPOCH
    return SentEvent({"type": EXPIRY, "data": {}}, at, at)


def wall_ms(at: float) -> int:
    """Convert a time of the monotonic clock to the wall clock, in milliseconds."""
    return int((at + EPOCH) * 1000)


def _pairs(history: History) -> Iterator[Pair]:
    """Yield project and user of each job of the root."""
    for data in (entry.event["data"] for entry in history.events):
        if "token_sha256" in data:
            yield data["project_id"], data["user"]["id"]


def _expiries(history: History) -> Iterator[SentEvent]:
    for entry in history.events:
        if moment := entry.event["data"].get("expires_at"):
            yield _expiry(milliseconds(moment))


class ExpectedAnswers:
    """The events of one root, replayed into spans and the answers at the end."""

    def __init__(self, history: History) -> None:
        self._root = history.root
        self._oracle = Oracle({}, wall_ms(history.events[0].sent) if history.events else 0)
        # All pairs from the beginning: an answer may still use a right that ended before its job.
        self.user_spans = {pair: Spans() for pair in _pairs(history)}
        self.agent_spans: defaultdict[Pair, Spans] = defaultdict(Spans)
        self.lives: dict[str, TokenLife] = {}
        now = time.monotonic()
        expiries = (each for each in _expiries(history) if each.sent <= now)
        for change in sorted([*history.events, *expiries], key=lambda change: change.sent):
            self._apply(change)

    def final(self, now: int) -> dict[str, Any]:
        """Return the right answer at `now` (ms) by digest: the status, and the body of a 200."""
        return dict.fromkeys(self.lives, 401) | self._oracle.views(now)

    # the replay

    def _apply(self, change: SentEvent) -> None:
        event = change.event
        if event["type"] != EXPIRY:
            self._oracle.take(event)
        if event["type"] == "job.started":
            self._start(change)
        name = event["type"].split(".")[0]
        if name == "agent":
            self._note_agents(change)
        elif name != "job":
            self._note_users(change)
        self._note_tokens(change)

    def _start(self, change: SentEvent) -> None:
        data = change.event["data"]
        life = self.lives.get(data["token_sha256"])
        if life is None:
            until = milliseconds(data["expires_at"]) / 1000 - EPOCH
            if self._is_removed(data["project_id"]):
                until = 0.0
            life = TokenLife(change.event, change.sent, Spans(), change.acked, until)
            self.lives[data["token_sha256"]] = life

    def _is_removed(self, project: int) -> bool:
        return self._oracle.entities.get(("project", self._root, project), "unknown") is None

    def _note_tokens(self, change: SentEvent) -> None:
        """Update the spans of tokens, from the job's own events and its project's removal."""
        now = wall_ms(change.sent)
        for digest, life in self.lives.items():
            alive = self._is_alive(digest, now)
            life.alive.update(alive, change)
            removed = self._is_removed(life.start["data"]["project_id"])
            if (not alive or removed) and life.no_401_until > change.sent:
                self.lives[digest] = life._replace(no_401_until=change.sent)

    def _is_alive(self, digest: str, now: int) -> bool:
        root, job, expires = self._oracle.holders[digest]
        current = self._oracle.jobs.get((root, job)) == digest
        return current and (root, job) not in self._oracle.finished and expires > now

    def _note_users(self, change: SentEvent) -> None:
        for pair, spans in self.user_spans.items():
            spans.update(self._is_allowed(*pair, wall_ms(change.sent)), change)

    def _is_allowed(self, project: int, user: int, now: int) -> bool:
        oracle = self._oracle
        known = oracle.entities.get(("project", self._root, project))
        groups = oracle.chain(self._root, known["group_id"]) if known else None
        state = (oracle.entities.get(("user", user)) or {}).get("state", "active")
        if groups is None or state != "active":
            return False
        return oracle.level(self._root, project, groups, user, now) >= DEVELOPER

    def _note_agents(self, change: SentEvent) -> None:
        projects = {key[2] for key in self._oracle.entities if key[0] == "project"}
        now = {(agent, p) for p in projects for agent in self._oracle.agents(self._root, p)}
        for pair in now | set(self.agent_spans):
            self.agent_spans[pair].update(pair in now, change)

    # what answers may be

    def over_grants(self, lookup: Lookup, bound: float) -> Iterator[str]:
        """Yield a sentence for each agent that the answer must not have."""
        if not lookup.agents:
            return
        earliest, latest = lookup.sent - bound - TOLERANCE_S, lookup.received
        life = self.lives.get(lookup.token.digest)
        if life is None:
            yield f"job {lookup.token.job} is answered although it never started"
            return
        data = life.start["data"]
        for agent in lookup.agents:
            reasons = {
                "its token": life.alive,
                "its user": self.user_spans[data["project_id"], data["user"]["id"]],
                "the agent": self.agent_spans[agent, data["project_id"]],
            }
            for what, spans in reasons.items():
                if not spans.overlaps(earliest, latest):
                    yield _sentence(lookup, agent, what, spans)

    def short_answers(self, lookup: Lookup) -> Iterator[str]:
        """Yield a sentence for each agent that the answer lacks.

        A list has at least all that Kafka had acknowledged when the job's start was sent, unless
        an event has taken it away since.
        """
        life = self.lives.get(lookup.token.digest)
        if lookup.status != 200 or life is None:
            return
        project, user = life.start["data"]["project_id"], life.start["data"]["user"]["id"]
        since = life.sent, lookup.received
        if not self.user_spans[project, user].hold_throughout(*since):
            return
        for (agent, of_project), spans in self.agent_spans.items():
            lacks = of_project == project and agent not in lookup.agents
            if lacks and spans.hold_throughout(*since):
                job, root = lookup.token.job, lookup.token.root
                yield f"job {job} (root {root}) lacks agent {agent}, which was there before it"

    def is_false_401(self, lookup: Lookup) -> bool:
        """Return whether the token was valid for the whole request, in any order of the topics."""
        life = self.lives.get(lookup.token.digest)
        return (
            life is not None
            and life.no_401_from < lookup.sent < lookup.received < life.no_401_until
        )

    def describe_false_401(self, lookup: Lookup) -> str:
        """Return the sentence about a false 401."""
        life = self.lives[lookup.token.digest]
        return (
            f"job {lookup.token.job} (root {self._root}) got 401 "
            f"{lookup.sent - life.no_401_from:.2f} s after its job.started was acknowledged"
        )


def _sentence(lookup: Lookup, agent: int, what: str, spans: Spans) -> str:
    ended = spans.last_end(lookup.received)
    since = "was never allowed"
    if ended:
        late = lookup.sent - ended.closed
        since = f"not allowed since {ended.by}, which Kafka had {late:.2f} s before the request"
    return f"job {lookup.token.job} (root {lookup.token.root}) got agent {agent}; {what}: {since}"


def expected_by_root(histories: Iterable[History]) -> dict[str, ExpectedAnswers]:
    """Replay each history; return the expected answers by root."""
    return {history.root: ExpectedAnswers(history) for history in histories}
