"""Lookups over HTTP, against uvicorn with an application that does nothing."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import redis
from tests import builders, job_tokens
from tests.integration.deployment import PATH
from tests.integration.servers import eventually

from benchmarks import wrk
from benchmarks.company import token
from benchmarks.processes import Conversation, Servers, listening
from benchmarks.rounds import Point, Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes
from benchmarks.wrk import Target
from projector.store import schema

PARTITIONS: Final = 2
FEW: Final = 1000
CONNECTIONS: Final = 64


class Views:
    """Views in their own Redis, and one API process that answers from them.

    `token` returns the token of a job.
    """

    def __init__(
        self, port: int, writers: list[Conversation], token: Callable[[int], str] = token
    ) -> None:
        self.redis = redis.Redis(port=port)
        self._writers = writers
        self._token = token
        self.tokens = 0
        self.url = ""
        self.pid = 0

    @property
    def target(self) -> Target:
        """The API with the present number of tokens."""
        return Target(self.url, self.pid, self.tokens)

    def grow(self, tokens: int) -> None:
        """Add tokens with one view each until there are so many."""
        for writer in self._writers:
            writer.send_line(tokens // PARTITIONS)
        for writer in self._writers:
            writer.read_line()
        self.tokens = tokens
        eventually(lambda: self._answers(tokens), "an answer for the last token")

    def _answers(self, job: int) -> bool:
        request = urllib.request.Request(
            f"{self.url}{PATH}", headers={"Job-Token": self._token(job)}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError:
            return False

    def record_bytes(self) -> int:
        """Return the stored size of one view, key included."""
        key = schema.record_key(builders.digest(token(1)))
        return len(key) + int(self.redis.strlen(key))


@contextmanager
def fresh_views(servers: Servers, tokens: int, signed: "Signed | None" = None) -> Iterator[Views]:
    """Start views that the product makes and keeps fresh without Kafka."""
    kind, env = (["signed"], signed.env) if signed else ([], {})
    with ExitStack() as stack:
        port = stack.enter_context(servers.valkey())
        url = f"redis://127.0.0.1:{port}/0"
        writers = [
            stack.enter_context(Conversation("fresh_views", url, partition, PARTITIONS, *kind))
            for partition in range(PARTITIONS)
        ]
        views = Views(port, writers, signed.token if signed else token)
        stack.callback(views.redis.close)
        views.url, views.pid = stack.enter_context(
            listening(
                ["projector", "api", "--port"],
                PROJECTOR_REDIS_URL=url,
                PROJECTOR_LOG_LEVEL="warning",
                **env,
            )
        )
        views.grow(tokens)
        yield views


class Signed:
    """Signed tokens in a file, and the settings of an API that accepts them."""

    def __init__(self, folder: Path, tokens: int) -> None:
        key, now_s = job_tokens.signing_key(), int(time.time())
        self._tokens = [
            key.token(job, **job_tokens.claims_of(job, now_s)) for job in range(1, tokens + 1)
        ]
        self.file, pem = folder / "signed-tokens", folder / "signing-key.pem"
        self.file.write_text("\n".join(self._tokens))
        pem.write_bytes(key.pem)
        self.env = {
            "PROJECTOR_JOB_TOKEN_KEYS": str(pem),
            "PROJECTOR_JOB_TOKEN_ISSUER": job_tokens.ISSUER,
        }

    def token(self, job: int) -> str:
        """Return the token of a job."""
        return self._tokens[job - 1]


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure every figure about lookups, and how they grow."""
    wrk.require()
    signed = Signed(servers.folder, FEW)
    with (
        fresh_views(servers, FEW) as few,
        fresh_views(servers, FEW) as many,
        fresh_views(servers, FEW, signed) as by_job,
        listening(["benchmarks.hello"]) as (url, pid),
    ):
        empty = _memory(many)
        many.grow(sizes.tokens)
        limit = Target(url, pid, sizes.tokens)
        with_signed = by_job.target._replace(file=signed.file)
        _warm_up(many.target, few.target, limit, with_signed)
        figures, growth = report.figures, report.growth
        figures["lookups_64"] = _saturated(many.target, limit, CONNECTIONS, sizes, sizes.rounds)
        figures["lookups_4"] = _saturated(many.target, limit, 4, sizes, sizes.rounds)
        figures["lookups_signed"] = _saturated(
            with_signed, few.target, CONNECTIONS, sizes, sizes.rounds
        )
        saturation = min(r.product.value for r in figures["lookups_64"])
        figures["lookup_p99"] = _at_rate(many.target, limit, saturation / 2, sizes, sizes.rounds)
        if sizes.grows:
            growth["lookups_by_connections"] = [
                Point(n, _saturated(many.target, limit, n, sizes, sizes.growth_rounds))
                for n in (CONNECTIONS // 8, CONNECTIONS // 4, CONNECTIONS // 2, CONNECTIONS)
            ]
            growth["lookup_p99_by_rate"] = [
                Point(rate, _at_rate(many.target, limit, rate, sizes, sizes.growth_rounds))
                for rate in (saturation / 16, saturation / 8, saturation / 4, saturation / 2)
            ]
        for tokens in sizes.steps(sizes.many_tokens):
            many.grow(tokens)
            if sizes.grows:
                rounds = _saturated(many.target, limit, CONNECTIONS, sizes, sizes.growth_rounds)
                growth.setdefault("lookups_by_tokens", []).append(Point(tokens, rounds))
        if sizes.many_tokens > sizes.tokens:
            figures["lookups_many_tokens"] = _saturated(
                many.target, few.target, CONNECTIONS, sizes, sizes.rounds
            )
        report.memory["redis_bytes_per_token"] = (_memory(many) - empty) / (many.tokens - FEW)
        report.memory["payload_bytes_per_token"] = many.record_bytes()


def _saturated(
    product: Target, limit: Target, connections: int, sizes: Sizes, rounds: int
) -> list[Round]:
    def measured(target: Target) -> Sample:
        answered = wrk.ask(target, connections, sizes.lookup_seconds)
        return Sample(answered.rate, answered.cpu, {"p50": answered.p50, "p99": answered.p99})

    return interleaved(rounds, lambda: measured(product), lambda: measured(limit))


def _at_rate(product: Target, limit: Target, rate: float, sizes: Sizes, rounds: int) -> list[Round]:
    def measured(target: Target) -> Sample:
        answered = wrk.ask_at(target, rate, sizes.lookup_seconds)
        return Sample(answered.p99, answered.cpu, {"rate": answered.rate, "p50": answered.p50})

    return interleaved(rounds, lambda: measured(product), lambda: measured(limit))


def _warm_up(*targets: Target) -> None:
    for target in targets:
        wrk.ask(target, CONNECTIONS, 1)
    time.sleep(0.5)


def _memory(views: Views) -> int:
    return int(views.redis.info("memory")["used_memory"])
