"""One scenario: the product under traffic, a fault, and the check of all answers."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from projector.config.settings import Settings
from projector.kafka import topics
from tests.faults import dead_letters, fault_injection
from tests.faults.background_loop import BackgroundLoop
from tests.faults.checker import Verdict, check_answers
from tests.faults.dead_letters import Origin
from tests.faults.expected_answers import TOLERANCE_S, expected_by_root
from tests.faults.namespaces import (
    SHORT_LIFE_S,
    Event,
    RandomNamespace,
    ScriptedNamespace,
    Token,
    root_ids,
)
from tests.faults.observer import Observer
from tests.faults.report import Report, Row
from tests.faults.traffic import Headers, SentEvent, Traffic
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import Server, eventually

# Seconds: the bound on staleness, and the silence after which Kafka drops a worker.
BOUND_S: Final = 3.0
SESSION_S: Final = 6.0
ROOTS_PER_PARTITION: Final = 3
SCRIPTED_FROM: Final = 500
WARM_EVENTS: Final = 500
SEND_S: Final = 60.0
# Minimum of answers by status; with too few, the check would pass without proving anything.
MIN_ANSWERS: Final = {200: 500, 401: 50}


Fault = tuple[str, dict[str, Any]]
Faults = Sequence[Fault]
# A worker without faults.
HEALTHY: Final[Faults] = ()


def injected(faults: Faults) -> dict[str, str]:
    """Return the arguments of `Deployment.start` for a process with the faults inside."""
    if not faults:
        return {}
    return {"module": fault_injection.__name__, **fault_injection.environment(*faults)}


class RawRecord(NamedTuple):
    """A record of any content, sent to Kafka as it is."""

    topic: str
    value: bytes | None
    key: bytes
    partition: int
    headers: Headers = ()


class Scenario:
    """Runs workers, an API, traffic and the observer until the block ends."""

    def __init__(self, deployment: Deployment, seed: int, report: Report, fault: str) -> None:
        self.deployment = deployment
        self.fault = fault
        self.workers: list[Server] = []
        # Faults inside the API.
        self.api_faults: Faults = HEALTHY
        self.scripted = [ScriptedNamespace(root) for root in root_ids(1, SCRIPTED_FROM)]
        self._report = report
        self._seed = seed
        self._stack = ExitStack()
        self._proofs: list[str] = []
        self._fault_began = 0.0
        deployment.env |= {
            "PROJECTOR_MAX_STALENESS": f"{BOUND_S:g}",
            "PROJECTOR_SESSION_TIMEOUT": f"{SESSION_S:g}",
        }

    @property
    def folder(self) -> Path:
        return self.deployment.folder

    def __enter__(self) -> Self:
        self.background = self._stack.enter_context(BackgroundLoop())
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # before the fault

    def start(self, *workers: Faults) -> None:
        """Start everything; return once all partitions are fresh under traffic.

        Each argument has the faults inside one worker.
        """
        self.create_topics()
        for faults in workers:
            self.start_worker(*faults)
        self.start_traffic()
        self.warm_up()

    def create_topics(self) -> None:
        env = self.deployment.env
        settings = Settings(
            kafka=env["PROJECTOR_KAFKA"],
            topic_prefix=env["PROJECTOR_TOPIC_PREFIX"],
            partitions=PARTITIONS,
        )
        asyncio.run(topics.create_topics(settings))

    def start_worker(self, *faults: Fault) -> Server:
        """Start another worker, with the faults inside."""
        worker = self.deployment.start("worker", **injected(faults))
        self.workers.append(worker)
        return worker

    def start_traffic(self) -> None:
        self.deployment.start_api(**injected(self.api_faults))
        namespaces = [RandomNamespace(root, self._seed) for root in root_ids(ROOTS_PER_PARTITION)]
        self.traffic = self.new_traffic(namespaces)
        self.background.run(self.traffic.start(), SEND_S)
        self._stack.callback(lambda: self.background.run(self.traffic.close(), SEND_S))
        port = int(self.deployment.api.rpartition(":")[2])
        self.observer = Observer(port, self.traffic, self._seed)
        self.background.start(self.observer.run())

    def new_traffic(self, namespaces: list[RandomNamespace]) -> Traffic:
        """Create the traffic of these namespaces."""
        return Traffic(self.deployment.kafka, self.deployment.prefix, self._seed, namespaces)

    def warm_up(self) -> None:
        self.until(lambda: all(map(self.owned_by, self.workers)), "every worker owns partitions")
        self.until(lambda: self.traffic.count > WARM_EVENTS, f"{WARM_EVENTS} events sent")
        self.until_fresh()

    # the fault

    def begin_fault(self) -> None:
        """Record that the fault begins now."""
        self._fault_began = time.monotonic()

    def add_proof(self, proof: str) -> None:
        """Add a reason why the fault was real."""
        self._proofs.append(proof)

    def send(self, event: Event, token: Token | None = None) -> SentEvent:
        """Send one event of a scripted namespace; return once Kafka has it."""
        return self.background.run(self.traffic.send(event, token), SEND_S)

    def send_around(self, brokers: str, deposed: int) -> None:
        """Send from now on through these brokers, to leaders other than the deposed one."""
        self.background.run(self.traffic.send_around(brokers, deposed), SEND_S)

    def start_scripted(self) -> None:
        """Set up the scripted namespaces; from now on their tokens are looked up."""
        for scripted in self.scripted:
            for event in scripted.foundation():
                self.send(event)
            self.send(scripted.started(scripted.token), scripted.token)
            self.observer.watched.append(scripted.token)
        for scripted in self.scripted:
            self.until_agents(scripted, (scripted.agent,))

    def scripted_in(self, partition: int) -> ScriptedNamespace:
        """Return the scripted namespace of the partition."""
        return next(each for each in self.scripted if each.partition == partition)

    def pause_traffic(self) -> None:
        """Stop all but scripted events; return once earlier short-lived grants have expired."""
        self.background.run(self.traffic.pause(), SEND_S)
        self.run_for(SHORT_LIFE_S[1])

    def resume_traffic(self) -> None:
        self.background.run(self.traffic.resume(), SEND_S)

    def until_agents(self, scripted: ScriptedNamespace, agents: tuple[int, ...]) -> None:
        """Wait until the scripted job may use exactly these agents."""

        def answered() -> bool:
            answer = self.deployment.look_up(scripted.token.secret)
            if answer.status != 200:
                return False
            return tuple(agent["id"] for agent in answer.body["allowed_agents"]) == agents

        self.until(answered, f"job {scripted.token.job} gets the agents {agents}")

    def owner(self, partition: int) -> str:
        """Return the owner that holds the partition's claim in Redis, or an empty string."""
        held = self.deployment.redis.hget(f"allowed-agents:partition:{{{partition}}}", "owner")
        return (held or b"").decode()

    def owned_by(self, worker: Server) -> list[int]:
        """Return the partitions that the worker has claimed."""
        mark = f"-{worker.process.pid}-"
        return [partition for partition in range(PARTITIONS) if mark in self.owner(partition)]

    def produce(self, *records: RawRecord) -> None:
        """Send records that must not change any answer, so no history has them."""
        self.background.run(self._produce(records), SEND_S)

    async def _produce(self, records: Sequence[RawRecord]) -> None:
        await asyncio.gather(*(self.traffic.produce(*record) for record in records))

    def until_letters(self, count: int) -> None:
        """Wait until `count` dead letters have been written, including repeated ones."""
        kafka, prefix = self.deployment.kafka, self.deployment.prefix

        def enough() -> bool:
            return self.background.run(dead_letters.count_letters(kafka, prefix), SEND_S) >= count

        self.until(enough, f"{count} dead letters")

    def dead_letters(self, count: int) -> set[Origin]:
        """Return the positions of bad records, once `count` of them are dead letters."""
        self.until_letters(count)
        kafka, prefix = self.deployment.kafka, self.deployment.prefix
        found: set[Origin] = set()

        def enough() -> bool:
            found.update(self.background.run(dead_letters.read_origins(kafka, prefix), SEND_S))
            return len(found) >= count

        self.until(enough, f"dead letters about {count} records")
        return found

    def run_for(self, seconds: float) -> None:
        """Let traffic go on for the duration of a fault."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "time passes", seconds + 5)

    def run_past_the_bound(self) -> None:
        """Let traffic go on until an answer from before would be a finding of the check."""
        self.run_for(BOUND_S + TOLERANCE_S)

    def until(self, holds: Callable[[], bool], what: str, timeout: float = 45.0) -> None:
        """Wait until it holds; fail at once if traffic or observer fail."""

        def checked() -> bool:
            self.background.raise_failures()
            return holds()

        eventually(checked, what, timeout)

    def until_fresh(self) -> None:
        """Wait until every partition has applied all that Kafka had at this call."""
        self.until(
            lambda: self.background.run(self.observer.is_fresh(), SEND_S), "all partitions fresh"
        )

    def until_stale(self) -> None:
        """Wait until /health/fresh returns 503."""
        self.until(lambda: self.observer.health[-1].status == 503, "/health/fresh is 503")

    def claims(self) -> int:
        """Count the claims of partitions so far."""
        return self.logged('"event": "claimed"')

    def heals(self) -> int:
        """Count the heals so far: a worker wrote everything from memory."""
        return self.logged('"source": "memory"')

    def logged(self, text: str) -> int:
        """Count the lines of the workers' logs that contain the text."""
        return sum(text in line for worker in self.workers for line in worker.log().splitlines())

    # after the fault

    def finish(self) -> Verdict:
        """End the traffic, wait until all is fresh, check, and add a row to the report."""
        self.until(self._has_seen_enough, f"enough answers by status: {MIN_ANSWERS}")
        self.pause_traffic()
        self.until_fresh()
        answers = self.background.run(self.observer.final_answers(self.traffic.started), SEND_S)
        lookups, expected = (
            list(self.observer.lookups),
            expected_by_root(self.traffic.histories.values()),
        )
        verdict = check_answers(expected, lookups, answers, BOUND_S)
        self._add_row(verdict, len(lookups))
        return verdict

    def judge(self) -> Verdict:
        """Check the answers so far, and add a row; for a partition that must stay stale."""
        lookups = list(self.observer.lookups)
        expected = expected_by_root(self.traffic.histories.values())
        verdict = check_answers(expected, lookups, {}, BOUND_S)._replace(wrong=[])
        self._add_row(verdict, len(lookups))
        return verdict

    def _has_seen_enough(self) -> bool:
        statuses = self.observer.statuses()
        return all(statuses[status] >= least for status, least in MIN_ANSWERS.items())

    def _add_row(self, verdict: Verdict, lookups: int) -> None:
        over_grants, false_401s, wrong, short = (len(found) for found in verdict)
        self._report.rows.append(
            Row(self.fault, self.traffic.count, lookups, over_grants, false_401s, wrong, short,
                self.fresh_again(), ", ".join(self._proofs))
        )  # fmt: skip

    def fresh_again(self) -> float:
        """Return the seconds from the fault until /health/fresh stayed 200."""
        bad = [h.at for h in self.observer.health if h.status != 200 and h.at > self._fault_began]
        if not bad:
            return 0.0
        back = [h.at for h in self.observer.health if h.status == 200 and h.at > bad[-1]]
        return min(back, default=math.inf) - self._fault_began
