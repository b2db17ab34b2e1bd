"""The figures, their limits, and the ratios that the product must reach."""

from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

from benchmarks.rounds import FALL, Round, spread


class Bound(StrEnum):
    """The number that must be reached: the ratio to the limit, or the product's value alone."""

    AT_LEAST = "at least {} of the limit"
    AT_MOST = "at most {} times the limit"
    UNDER = "at most {}"
    OVER = "at least {}"


OF_THE_PRODUCT: Final = (Bound.UNDER, Bound.OVER)
GROWING: Final = (Bound.AT_LEAST, Bound.OVER)


class Verdict(StrEnum):
    """Verdict of the rounds on a figure."""

    MET = "yes"
    MISSED = "**no**"
    # The limit's own value shows it; only figures with `limit_on_idle` can be so.
    BUSY = "not judged: the machine was busy"


class Figure(NamedTuple):
    """One row of the report."""

    title: str
    unit: str
    limit: str
    bound: Bound
    wanted: float
    # Wanted besides, of a figure that is judged by its own value: the ratio to the limit.
    ratio_at_most: float = inf
    # If even the limit is above this, the machine was too busy for the product to be judged.
    limit_on_idle: float = inf
    # A figure has fallen only if its ratio to the limit is above this as well. A slow machine makes
    # CPU time grow alike, and a claim of few facts takes 0.1 s besides.
    falls_above: float = 0
    # The reason, with a profile, if it is known not to be met on the machine of the report.
    why_not: str = ""

    def judged(self, rounds: list[Round]) -> float:
        """Return the number to compare with `wanted`: the median of the rounds."""
        if self.bound in OF_THE_PRODUCT:
            return spread([r.product.value for r in rounds]).median
        return spread([r.ratio for r in rounds]).median

    def ratio_by_cpu(self, measured: Round) -> float | None:
        """Return the ratio as if both had as much of the processor as they need.

        Of a figure that is the better the larger it is, the work done in a second of CPU time.
        """
        dearer = measured.cpu_ratio
        return 1 / dearer if dearer and self.bound in GROWING else dearer

    def verdict(self, rounds: list[Round]) -> Verdict:
        """Return whether the medians reach the wanted numbers, if the machine was idle enough."""
        if self.is_busy(rounds):
            return Verdict.BUSY
        ratio = spread([r.ratio for r in rounds]).median
        met = self._is_within(self.judged(rounds), 1) and ratio <= self.ratio_at_most
        return Verdict.MET if met else Verdict.MISSED

    def is_busy(self, rounds: list[Round]) -> bool:
        """Whether the limit itself shows that the machine had too much else to do."""
        return spread([r.limit.value for r in rounds]).median > self.limit_on_idle

    def has_fallen(self, rounds: list[Round]) -> bool:
        """Whether every round is below half of what is wanted, by the clock and by CPU time.

        CPU time counts too, because load of other programs affects the clock. Without CPU time the
        limit must show that the machine was idle enough, or, of CPU time itself, fast enough. Every
        round counts, because other load only makes a round worse, and a fall of the product shows
        in all of them.
        """
        if self.is_busy(rounds) or any(r.ratio <= self.falls_above for r in rounds):
            return False
        by_cpu = [found for r in rounds if (found := self._judged_by_cpu(r)) is not None]
        return not any(
            self._is_within(value, FALL) for value in (*(self.judged([r]) for r in rounds), *by_cpu)
        )

    def _judged_by_cpu(self, measured: Round) -> float | None:
        """Return the number to compare with `wanted` as if the processor were the product's alone.

        A rate is that of a second of CPU time. Another value of the product alone has none.
        """
        if self.bound is Bound.OVER:
            return 1e6 / measured.product.cpu if measured.product.cpu else None
        return None if self.bound is Bound.UNDER else self.ratio_by_cpu(measured)

    def _is_within(self, value: float, share: float) -> bool:
        if self.bound in GROWING:
            return value >= self.wanted * share
        return value <= self.wanted / share


HELLO: Final = 'bare uvicorn, ASGI "hello", with the flags that make it fastest'
SETS: Final = "pipelined SETs of the same bytes"
PLAIN: Final = "produced and consumed by plain aiokafka"
COPIED_EVENTS: Final = "plain aiokafka, and pipelined SETs of the same bytes"
PAYLOAD: Final = "the bytes of its key and its value"
IDLE: Final = "a Faust worker whose agents only acknowledge, with Faust's own fetches of 1.5 s"
RELAYED: Final = "pg_recvlogical's output, produced and consumed by plain aiokafka"
COPIED: Final = "COPY of the same rows to a client"
DRAINED: Final = "pg_recvlogical of the same stream, then the same events by plain aiokafka"
BARE: Final = "bare uvicorn, ASGI, that hands the body to one aiokafka producer"
BARE_BATCHES: Final = "the same, that sends the events as one batch of aiokafka"

# A figure is judged only if its limit is below this: some twice to five times what an idle machine
# shows, and below what the same machine shows once another program keeps a core busy.
# "Hello" at half of saturation: p99 1.8 to 2.0 ms, busy 5 to 9.
HELLO_P99_MS: Final = 3.0
# Plain aiokafka at 500/s: p50 0.8 to 4.4 ms, which grows with the product's; p99 2 to 8.5, busy 14.
PLAIN_P50_MS: Final = 10.0
PLAIN_P99_MS: Final = 12.0
# One transaction through pg_recvlogical and Kafka: p50 4.2 ms, p95 8.8.
RELAYED_P50_MS: Final = 20.0
RELAYED_P95_MS: Final = 50.0
# One event and one SET: some 3 ms.
ONE_WRITE_MS: Final = 20.0

# Ratios of CPU times above which a fall is the product's: twice those seen, 9 and 1.7.
IDLE_RATIO: Final = 18.0
HELP_RATIO: Final = 3.5

# Reasons, with profiles of 29 November 2026; the report has them only where a row is not met.
VISIBLE_P50_WHY: Final = (
    "From `send` it takes 0.8 ms until the owner has the event: Kafka's fetch, and Faust's "
    "thread. The owner and its call to Redis take 0.5 ms. A lookup takes 0.4 ms, and a change "
    "during it is seen by the next. The limit ends at the consumer, without a lookup."
)
REBUILD_WHY: Final = (
    "Of the worker's CPU time 25 % decodes and checks events, and 30 % applies them to the "
    "facts. Reading Kafka takes 10 %, and views with the checkpoint take 15 %. The rest is flat: "
    "no line takes more than 3.4 %. The limit decodes nothing, and reads and writes in two "
    "threads. It needs some 9 us of CPU an event."
)
CLAIM_WHY: Final = (
    "A fact takes 1.2 us: 0.35 us decode its JSON, 0.25 us its key. Packing it takes 0.2 us, and "
    "the dict another 0.2 us. The limit keeps nothing: it parses the same HSCAN in C and drops "
    "it."
)
FAN_OUT_WHY: Final = (
    "Computing and encoding a view takes 4 us, packing and sending it 2 us, and marking it 1.5 "
    "us. The limit only packs and sends bytes. The promise about revocations does not depend on "
    "it: the overlay holds old views back, and has a row of its own."
)
LOOKUPS_WHY: Final = (
    "By CPU time it is met, with 1.25. By the clock Redis and the generator share the other "
    "core, where the limit's generator has it alone."
)
LOOKUPS_4_WHY: Final = (
    "By CPU time it is met. With four connections a lookup shares its read of Redis with few "
    "others, and waits for it; the limit waits for nothing. A read alone costs Redis 16 us, and "
    "two wake-ups."
)
SIGNED_WHY: Final = (
    "In one process a lookup takes 6.0 us of Python by digest and 7.8 us by signed token. The "
    "longer token takes 0.7 us in the parser, 0.45 us to find the head's end and 0.27 us to "
    "check its form. The cache of verified tokens takes 0.4 us."
)
MANY_WHY: Final = (
    "By the API's CPU time it is met. What is missing is most likely Redis's: a million records "
    "of 1.6 KB do not fit the processor's caches, a thousand do."
)
INGEST_WHY: Final = (
    "Of a request's CPU time 25 % sends the event and waits for the acknowledgement, with its "
    "bounds. The line of the log takes 18 %, the answer 9 %, the worker's own check 8 %, reading "
    "HTTP 6 %. Token, rights, media type, body and metrics have the rest, none of them more than "
    "4 %. The limit has no token, check, metric, bound or log."
)
INGEST_BATCHES_WHY: Final = (
    "An event takes 13 us in its check, of which decoding it as a worker does takes 5, and its "
    "feeder's rights 3. Twice as much goes to aiokafka's `send`, with a future for each event. The "
    "limit's `send_batch` has none. Beside requests with one event it failed within 0.4 s: they "
    "come before it again and again, and its time-out counts earlier waits again."
)
VISIBLE_P99_WHY: Final = (
    "It is a tenth of the 50 ms. No single cause was found. The worker also has rounds of probes "
    "and stamps, the garbage collector and commits of offsets to Kafka; the limit has none of "
    "them."
)
IDLE_WHY: Final = (
    "A third is Faust's thread, which asks Kafka ten times a second so that no event is late. A "
    "probe and a stamp take some 0.1 ms, 256 times a second. The partitions of this row also "
    "have 100 live tokens each, which the sweep compares."
)
JOB_WHY: Final = (
    "A job is an object with nine fields, a digest, its entries in six indexes and a timer. "
    "Packed it would take some 600 bytes, and be made anew at each look-up, several times an "
    "event."
)

FIGURES: Final = {
    "lookups_64": Figure(
        "lookups, one uvicorn worker, 64 connections", "lookups/s", HELLO, Bound.AT_LEAST, 1.2,
        why_not=LOOKUPS_WHY,
    ),
    "lookups_4": Figure("lookups, 4 connections", "lookups/s", HELLO, Bound.AT_LEAST, 0.75,
        why_not=LOOKUPS_4_WHY,
    ),
    "lookup_p99": Figure(
        "lookup p99 at half of saturation", "ms", f"{HELLO}, same rate", Bound.AT_MOST, 1,
        limit_on_idle=HELLO_P99_MS,
    ),
    "lookups_signed": Figure(
        "lookups by signed job tokens", "lookups/s", "by the digest, among as many tokens",
        Bound.AT_LEAST, 0.9,
        why_not=SIGNED_WHY,
    ),
    "lookups_many_tokens": Figure(
        "lookups among all tokens", "lookups/s", "among 1,000 tokens", Bound.AT_LEAST, 0.95,
        why_not=MANY_WHY,
    ),
    "live_events": Figure(
        "live events through one Faust worker into views", "events/s",
        "a Faust agent that only acknowledges the same events", Bound.AT_LEAST, 0.8,
    ),
    "visible_p50": Figure(
        "event acknowledged until its answer has changed over HTTP, p50", "ms", PLAIN,
        Bound.AT_MOST, 3, limit_on_idle=PLAIN_P50_MS,
        why_not=VISIBLE_P50_WHY,
    ),
    "visible_p99": Figure(
        "event acknowledged until its answer has changed over HTTP, p99", "ms", PLAIN,
        Bound.UNDER, 50, ratio_at_most=3, limit_on_idle=PLAIN_P99_MS,
        why_not=VISIBLE_P99_WHY,
    ),
    "jobs": Figure(
        "jobs fed until their answers are right", "jobs/s", COPIED_EVENTS, Bound.OVER, 8_000
    ),
    "ingest_one_token": Figure(
        "requests with one event, of one token over its 16 connections", "requests/s", BARE,
        Bound.AT_LEAST, 0.25, why_not=INGEST_WHY,
    ),
    "ingest_tokens": Figure(
        "requests with one event, of 8 tokens over 64 connections", "requests/s", BARE,
        Bound.AT_LEAST, 0.25, why_not=INGEST_WHY,
    ),
    "ingest_batches": Figure(
        "events in requests of 500", "events/s", BARE_BATCHES, Bound.OVER, 20_000,
        why_not=INGEST_BATCHES_WHY,
    ),
    "rebuild": Figure(
        "rebuild from the beginning of the topics", "events/s", COPIED_EVENTS, Bound.AT_LEAST, 0.7,
        why_not=REBUILD_WHY,
    ),
    "fan_out_revoked": Figure(
        "a revocation from all live tokens until no answer has the agent", "ms",
        f"one event {PLAIN}, and one SET acknowledged", Bound.UNDER, 50,
        limit_on_idle=ONE_WRITE_MS,
    ),
    "fan_out_change": Figure(
        "a configuration change until the last view that it touches is written", "s", SETS,
        Bound.AT_MOST, 1.1,
        why_not=FAN_OUT_WHY,
    ),
    "fan_out_revocation": Figure(
        "a revocation until the last view that it touches is written", "s", SETS,
        Bound.AT_MOST, 1.1,
        why_not=FAN_OUT_WHY,
    ),
    "claim": Figure(
        "claim of a partition until it is fresh", "s", "HSCAN of the same hash", Bound.AT_MOST, 2.5,
        falls_above=10, why_not=CLAIM_WHY,
    ),
    "idle_16": Figure(
        "an idle worker with 16 partitions", "% of a core", IDLE, Bound.UNDER, 3,
        falls_above=IDLE_RATIO,
    ),
    "idle_64": Figure(
        "an idle worker with 64 partitions", "% of a core", IDLE, Bound.UNDER, 6,
        falls_above=IDLE_RATIO,
        why_not=IDLE_WHY,
    ),
    "worker_fact": Figure("a fact in the worker", "bytes", PAYLOAD, Bound.UNDER, 200),
    "redis_fact": Figure("a fact in Redis", "bytes", PAYLOAD, Bound.UNDER, 150),
    "worker_job": Figure("a live job in the worker", "bytes", PAYLOAD, Bound.UNDER, 600,
        why_not=JOB_WHY,
    ),
    "help": Figure(
        "CPU of `projector --help`", "s", "`--help` of a Typer program with one command",
        Bound.UNDER, 0.2, falls_above=HELP_RATIO,
    ),
    "inspect": Figure(
        "CPU of `projector inspect job`", "s",
        "a command of the same libraries, with one setting and one GET",
        Bound.AT_MOST, 1.5,
    ),
    "gitlab_visible_p50": Figure(
        "COMMIT in GitLab's database until the answer has changed over HTTP, p50", "ms", RELAYED,
        Bound.UNDER, 60, limit_on_idle=RELAYED_P50_MS,
    ),
    "gitlab_visible_p95": Figure(
        "COMMIT in GitLab's database until the answer has changed over HTTP, p95", "ms", RELAYED,
        Bound.UNDER, 150, limit_on_idle=RELAYED_P95_MS,
    ),
    "gitlab_snapshot": Figure(
        "snapshot of GitLab's tables until Kafka has all of it", "rows/s", COPIED,
        Bound.OVER, 20_000,
    ),
    "gitlab_memory": Figure(
        "memory of the bridge after a snapshot, at most", "MB", COPIED, Bound.UNDER, 300
    ),
    "gitlab_commits": Figure(
        "a backlog of transactions of one row until Kafka has all of it", "transactions/s",
        DRAINED, Bound.OVER, 2_000,
    ),
    "gitlab_changes": Figure(
        "one transaction of many rows until Kafka has all of it", "rows/s", DRAINED,
        Bound.OVER, 5_000,
    ),
    "gitlab_poll": Figure(
        "a poll of GitLab's tables without a change", "s", COPIED, Bound.UNDER, 5.2
    ),
    "gitlab_poll_jobs": Figure(
        "a poll of jobs and users without a change", "s", COPIED, Bound.UNDER, 0.5
    ),
}  # fmt: skip

# The figures that grow to 1, 2, 4 and 8 times a size.
GROWTH: Final = {
    "lookups_by_connections": ("lookups_64", "connections"),
    "lookups_by_tokens": ("lookups_64", "tokens"),
    "lookup_p99_by_rate": ("lookup_p99", "lookups/s"),
    "live_events_by_backlog": ("live_events", "events at once"),
    "visible_p50_by_rate": ("visible_p50", "events/s"),
    "visible_p99_by_rate": ("visible_p99", "events/s"),
    "rebuild_by_events": ("rebuild", "events"),
    "fan_out_change_by_views": ("fan_out_change", "views"),
    "fan_out_revocation_by_views": ("fan_out_revocation", "views"),
    "claim_by_facts": ("claim", "facts"),
}
