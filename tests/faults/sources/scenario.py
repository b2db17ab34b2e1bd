"""A scenario whose traffic happens in a source, from which feeders send it to Kafka."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults.conftest import SEED
from tests.faults.namespaces import RandomNamespace, ScriptedNamespace, Token
from tests.faults.observer import Lookup
from tests.faults.scenario import Faults, Scenario
from tests.faults.sources import feeder as process
from tests.faults.sources.source import Source, SourceTraffic
from tests.integration import processes
from tests.integration.servers import Server

NAME: Final = "upstream"
# Events per second while no feeder works: every token that starts then waits for its 503.
SLOW: Final = 5.0
# The grace of unknown tokens (seconds), after which a lookup from before has its answer.
GRACE_S: Final = 2.0
# The number of each scripted namespace's job that ends.
ENDING: Final = 99


def ending(scripted: ScriptedNamespace) -> Token:
    """Return the token of the job that ends in the source while feeders are silent."""
    return scripted.another_token(ENDING)


class Feeder:
    """A feeder's process, with its log and its moments of death."""

    def __init__(self, server: Server, kill: Path) -> None:
        self.server = server
        self._kill = kill

    def lines(self, word: str) -> list[tuple[float, list[str]]]:
        """Return the time and the other words of each line about this."""
        lines = (line.split() for line in self.server.log().splitlines())
        return [(float(at), more) for at, said, *more in lines if said == word]

    def kill_at(self, moment: str) -> None:
        """Let the process kill itself at the next such moment."""
        self._kill.write_text(moment)

    def is_dead(self) -> bool:
        return self.server.process.poll() is not None


class SourceScenario(Scenario):
    """Runs a source beside workers, an API, traffic and the observer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.source = Source(self.folder / "source.ndjson")
        self._stack.callback(self.source.close)
        self.feeders: list[Feeder] = []
        # Clocks may be apart by which servers judge what expires.
        self.expiries = True
        self.deployment.env["PROJECTOR_SOURCES"] = NAME

    def start_fed(self, *workers: Faults, env: Mapping[str, str] | None = None) -> Feeder:
        """Start everything and a feeder, which is returned, with `env`."""
        self.create_topics()
        feeder = self.start_feeder(env=env)
        for faults in workers:
            self.start_worker(*faults)
        self.start_traffic()
        self.warm_up()
        return feeder

    def start_feeder(self, lag_s: float = 0.0, env: Mapping[str, str] | None = None) -> Feeder:
        """Start another feeder of the source's name, which sends all changes."""
        number = len(self.feeders) + 1
        state, kill = self.folder / f"feeder-{number}", self.folder / f"kill-{number}"
        options = (str(self.source.file), str(state), str(lag_s), str(kill))
        # A process has a library preloaded only if it is a new one.
        with processes.not_forking() if env else nullcontext():
            server = self.deployment.start("feed", *options, module=process.__name__, **(env or {}))
        self.feeders.append(Feeder(server, kill))
        return self.feeders[-1]

    def new_traffic(self, namespaces: list[RandomNamespace]) -> SourceTraffic:
        for namespace in namespaces:
            namespace.expiries = self.expiries
        deployment = self.deployment
        traffic = SourceTraffic(deployment.kafka, deployment.prefix, SEED, namespaces)
        traffic.source = self.source
        return traffic

    def start_scripted(self) -> None:
        """Set up the scripted namespaces; each has another job that ends in the source later."""
        super().start_scripted()
        for scripted in self.scripted:
            token = ending(scripted)
            self.send(scripted.started(token), token)
            self.observer.watched.append(token)
            self.until(partial(self._is_answered, token), f"job {token.job} is answered")

    def _is_answered(self, token: Token) -> bool:
        return self.deployment.look_up(token.secret).status == 200

    def refused(self, since: float, until: float = float("inf")) -> list[Lookup]:
        """Return the 503s to lookups that were sent and answered in between."""
        lookups = self.observer.lookups
        return [
            each for each in lookups
            if each.status == 503 and since < each.sent and each.received < until
        ]  # fmt: skip
