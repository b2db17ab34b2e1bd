"""Events over HTTP, against uvicorn with an application that hands them to aiokafka unchecked."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from tests.integration.ingest_client import Ingest, feeder

from benchmarks import producing, wrk
from benchmarks.company import Company, companies, encode
from benchmarks.processes import Servers, listening
from benchmarks.rounds import Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes
from benchmarks.wrk import Posts
from projector.ingest.admission import TOKEN_REQUESTS
from projector.ingest.http_events import BATCH_TYPE, STRUCTURED_TYPE

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
BATCH_EVENTS: Final = 500


def token(team: Company) -> str:
    """Return the token of a company's team, as long as `docs/ingest.md` advises."""
    return hashlib.sha256(f"team {team.root}".encode()).hexdigest()


def entry(team: Company) -> dict[str, Any]:
    """Return the team's entry in the file of tokens: memberships of its own company."""
    return feeder(
        token(team), types=["member.*"], partitionkeys=[str(team.root)], sources=["/test"]
    )


def single_posts(teams: list[Company], file: Path) -> Posts:
    """Write a request with one event for each user of each team."""
    users = range(teams[0].users)
    file.write_text("".join(_line(team, _event(team, user)) for user in users for team in teams))
    return Posts(STRUCTURED_TYPE, file)


def batch_posts(teams: list[Company], file: Path) -> Posts:
    """Write a request with many events for each team."""
    users = range(BATCH_EVENTS)
    batches = ([msgspec.Raw(_event(team, user)) for user in users] for team in teams)
    encoded = map(msgspec.json.encode, batches)
    file.write_text("".join(map(_line, teams, encoded)))
    return Posts(BATCH_TYPE, file)


def _event(team: Company, user: int) -> bytes:
    return encode(team.member(user, "developer"))


def _line(team: Company, body: bytes) -> str:
    return f"{token(team)} {body.decode()}\n"


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure requests with one event, of one token and of several, and with many events."""
    wrk.require()
    teams = companies(sizes.ingest_teams)
    with servers.deployment(len(teams)) as deployment:
        topic = producing.create_topic(deployment, "bare", 1)
        product = Ingest(deployment, *map(entry, teams))
        with listening(["benchmarks.bare_ingest", servers.kafka, topic]) as limit:
            rig = Rig((product.url, product.process.process.pid), limit, sizes)
            rig.warm_up(teams[0])
            folder, figures = deployment.folder, report.figures
            one = single_posts(teams[:1], folder / "one")
            figures["ingest_one_token"] = rig.rounds(one, TOKEN_REQUESTS)
            if len(teams) > 1:
                several = single_posts(teams, folder / "several")
                figures["ingest_tokens"] = rig.rounds(several, CONNECTIONS)
            batches = batch_posts(teams, folder / "batches")
            figures["ingest_batches"] = rig.rounds(batches, BATCH_CONNECTIONS, BATCH_EVENTS)


class Rig:
    """A running ingest and its limit, each by its URL and process id."""

    def __init__(self, product: tuple[str, int], limit: tuple[str, int], sizes: Sizes) -> None:
        self._product = product
        self._limit = limit
        self._sizes = sizes

    def warm_up(self, team: Company) -> None:
        """Send one event to both: the first one waits for the connection to Kafka."""
        headers = {"authorization": f"Bearer {token(team)}", "content-type": STRUCTURED_TYPE}
        for url, _ in self._product, self._limit:
            answer = httpx.post(f"{url}/events", content=_event(team, 0), headers=headers)
            answer.raise_for_status()

    def rounds(self, posts: Posts, connections: int, events: int = 1) -> list[Round]:
        """Measure both with these requests of so many events."""

        def through(server: tuple[str, int]) -> Callable[[], Sample]:
            return lambda: self._sample(server, posts, connections, events)

        return interleaved(self._sizes.ingest_rounds, through(self._product), through(self._limit))

    def _sample(
        self, server: tuple[str, int], posts: Posts, connections: int, events: int
    ) -> Sample:
        answered = wrk.post(*server, connections, self._sizes.lookup_seconds, posts)
        more = {"p50": answered.p50, "p99": answered.p99}
        return Sample(answered.rate * events, answered.cpu / events, more)
