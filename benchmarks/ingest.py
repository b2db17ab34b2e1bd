"""Events over HTTP, against uvicorn with an application that hands them to aiokafka unchecked."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

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


def token(company: Company) -> str:
    """Return the token of a company's team, as long as `docs/ingest.md` advises."""
    return hashlib.sha256(f"team {company.root}".encode()).hexdigest()


def single_posts(teams: list[Company], file: Path) -> Posts:
    """Write a request with one event for each user of each team."""
    lines = [
        f"{token(team)} {encode(team.member(user, 'developer')).decode()}\n"
        for user in range(teams[0].users)
        for team in teams
    ]
    file.write_text("".join(lines))
    return Posts(STRUCTURED_TYPE, file)


def batch_posts(teams: list[Company], file: Path) -> Posts:
    """Write a request with many events for each team."""
    file.write_text("".join(f"{token(team)} {_batch(team).decode()}\n" for team in teams))
    return Posts(BATCH_TYPE, file)


def _batch(team: Company) -> bytes:
    return msgspec.json.encode([team.member(user, "developer") for user in range(BATCH_EVENTS)])


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure requests with one event and with many, of one token and of several."""
    wrk.require()
    teams = companies(sizes.ingest_teams)
    with servers.deployment(len(teams)) as deployment:
        rights = {"types": ["member.*"], "sources": ["/test"]}
        feeders = [feeder(token(t), partitionkeys=[str(t.root)], **rights) for t in teams]
        product = Ingest(deployment, *feeders)
        topic = producing.create_topic(deployment, "bare", 1)
        with listening(["benchmarks.bare_ingest", servers.kafka, topic]) as limit:
            rig = Rig((product.url, product.process.process.pid), limit, sizes)
            folder = deployment.folder
            one = single_posts(teams[:1], folder / "one-token")
            report.figures["ingest_one_token"] = rig.rounds(one, TOKEN_REQUESTS)
            if sizes.ingest_teams > 1:
                several = single_posts(teams, folder / "tokens")
                report.figures["ingest_tokens"] = rig.rounds(several, CONNECTIONS)
            batches = batch_posts(teams, folder / "batches")
            report.figures["ingest_batches"] = rig.rounds(batches, BATCH_CONNECTIONS, BATCH_EVENTS)


class Rig:
    """A running ingest and its limit, each by its URL and process id."""

    def __init__(self, product: tuple[str, int], limit: tuple[str, int], sizes: Sizes) -> None:
        self._product = product
        self._limit = limit
        self._sizes = sizes

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
