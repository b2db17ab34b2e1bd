"""Verdicts, reports and comparisons of the benchmarks, and the samples that they take."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import comparison, ingest, processes, report, visible
from benchmarks.bare_ingest import BareIngest
from benchmarks.company import Company, companies, record, token
from benchmarks.revoked import granted
from benchmarks.rounds import Report, Round, Sample, interleaved
from benchmarks.sizes import Sizes
from benchmarks.table import FIGURES, Bound, Figure, Verdict
from benchmarks.wrk import Posts

from projector.domain.projection import Policy, Projection
from projector.ingest.checks import Checks
from projector.ingest.feeders import find_feeder, parse_feeders
from projector.ingest.http_events import BATCH_TYPE, STRUCTURED_TYPE, Mode, mode_of, records_of
from tests import builders

FAST = Figure("lookups", "lookups/s", "hello", Bound.AT_LEAST, 0.8)
SOON = Figure("change", "s", "SETs", Bound.AT_MOST, 1.5)
SHORT = Figure("visible", "ms", "plain", Bound.UNDER, 50)
MANY = Figure("snapshot", "rows/s", "COPY", Bound.OVER, 20_000)


class Plain:
    """A consumer of so many records, of which the watched have the time of their sending."""

    def __init__(self, count: int, watched: list[int]) -> None:
        moments = {number: [(visible.MOMENT, b"1.5")] for number in watched}
        self._records = [SimpleNamespace(headers=moments.get(n, [])) for n in range(count)]

    async def getmany(self, timeout_ms: int) -> dict[int, list[SimpleNamespace]]:
        assert timeout_ms
        records, self._records = self._records[:7], self._records[7:]
        return {0: records}


def measured(
    *values: tuple[float, float], cpu: tuple[float | None, float | None] = (None, None)
) -> list[Round]:
    return [Round(Sample(product, cpu[0]), Sample(limit, cpu[1])) for product, limit in values]


def test_product_and_limit_take_turns() -> None:
    seen: list[str] = []

    def measure(name: str) -> Sample:
        seen.append(name)
        return Sample(len(seen))

    rounds = interleaved(3, lambda: measure("product"), lambda: measure("limit"))
    assert seen == ["product", "limit"] * 3
    assert [(r.product.value, r.limit.value) for r in rounds] == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize(
    ("figure", "rounds", "is_met"),
    [
        (FAST, measured((8, 10)), True),
        (FAST, measured((7, 10)), False),
        (SOON, measured((3, 2)), True),
        (SOON, measured((3.1, 2)), False),
        (SHORT, measured((49, 1)), True),
        (SHORT, measured((51, 100)), False),
        (MANY, measured((20_000, 1)), True),
        (MANY, measured((19_999, 1)), False),
    ],
)
def test_a_figure_is_held_against_its_limit_or_against_its_own_value(
    figure: Figure, rounds: list[Round], is_met: bool
) -> None:
    assert figure.verdict(rounds) is (Verdict.MET if is_met else Verdict.MISSED)


def test_one_odd_round_decides_nothing() -> None:
    assert FAST.verdict(measured((9, 10), (1, 10), (9, 10))) is Verdict.MET


def test_rounds_are_compared_one_by_one_and_not_on_average() -> None:
    busy_and_idle = measured((1, 1), (10, 10), (100, 100))
    assert FAST.judged(busy_and_idle) == 1


def test_a_figure_falls_below_half_of_what_is_wanted() -> None:
    assert not FAST.has_fallen(measured((4, 10)))
    assert FAST.has_fallen(measured((3.9, 10)))
    assert not SOON.has_fallen(measured((3, 1)))
    assert SOON.has_fallen(measured((3.1, 1)))


def test_a_fall_is_one_in_every_round() -> None:
    assert not FAST.has_fallen(measured((1, 10), (4, 10)))
    assert FAST.has_fallen(measured((1, 10), (3, 10)))


def test_a_fall_by_the_clock_alone_is_the_machines() -> None:
    assert not FAST.has_fallen(measured((1, 10), cpu=(20, 10)))
    assert FAST.has_fallen(measured((1, 10), cpu=(30, 10)))
    assert not SOON.has_fallen(measured((10, 1), cpu=(30, 10)))
    assert SOON.has_fallen(measured((10, 1), cpu=(31, 10)))


def test_a_rate_without_a_ratio_is_a_fall_if_a_second_of_cpu_time_does_less_than_half() -> None:
    assert not MANY.has_fallen(measured((10_000, 1)))
    assert MANY.has_fallen(measured((9_999, 1)))
    assert not MANY.has_fallen(measured((9_999, 1), cpu=(100, 1)))
    assert MANY.has_fallen(measured((9_999, 1), cpu=(101, 1)))


def test_a_value_without_a_ratio_is_not_held_against_cpu_time() -> None:
    assert SHORT.has_fallen(measured((101, 1), cpu=(1, 1)))


def test_no_fall_is_told_on_a_machine_too_busy_for_the_limit_itself() -> None:
    figure = SHORT._replace(limit_on_idle=20)
    assert figure.has_fallen(measured((101, 20)))
    assert not figure.has_fallen(measured((101, 21)))


def test_a_value_of_cpu_time_is_no_fall_on_a_machine_that_is_slow_for_the_limit_too() -> None:
    figure = SHORT._replace(falls_above=4)
    assert figure.has_fallen(measured((101, 25)))
    assert not figure.has_fallen(measured((101, 26)))
    assert not figure.has_fallen(measured((101, 25), (101, 26)))
    assert figure.verdict(measured((51, 100))) is Verdict.MISSED
    assert figure.verdict(measured((50, 1))) is Verdict.MET


def test_a_limit_too_small_to_see_is_a_ratio_without_end() -> None:
    assert SHORT.verdict(measured((50, 0))) is Verdict.MET
    assert SHORT.has_fallen(measured((101, 0)))


def test_a_figure_is_not_judged_where_the_limit_shows_a_busy_machine() -> None:
    figure = SOON._replace(limit_on_idle=2)
    assert figure.verdict(measured((4, 2))) is Verdict.MISSED
    assert figure.verdict(measured((4, 2.1))) is Verdict.BUSY
    # One busy round of three is no busy machine.
    assert figure.verdict(measured((2, 1), (30, 9), (2, 1))) is Verdict.MISSED


def test_a_figure_of_its_own_value_may_be_held_against_its_limit_besides() -> None:
    figure = SHORT._replace(ratio_at_most=3)
    assert figure.verdict(measured((30, 10))) is Verdict.MET
    assert figure.verdict(measured((31, 10))) is Verdict.MISSED
    assert figure.verdict(measured((51, 100))) is Verdict.MISSED


def test_the_report_can_be_made_again_from_its_raw_numbers(tmp_path: Path) -> None:
    found = Report({"Python": "3.11"}, Sizes().numbers(), {"rebuild": measured((7, 10), (8, 10))})
    report.save(found, tmp_path)
    assert report.load(tmp_path) == found
    report.write(report.load(tmp_path), tmp_path)
    text = (tmp_path / report.TEXT).read_text()
    assert "| 7 / **7.5** / 8 events/s | 10 / **10** / 10 events/s | 0.7 / **0.75** / 0.8 |" in text
    assert "at least 0.7 | yes |" in text


@pytest.mark.parametrize(("product", "told"), [(5, True), (8, False)])
def test_the_report_says_why_a_row_is_not_met_and_of_no_other(
    monkeypatch: pytest.MonkeyPatch, product: float, told: bool
) -> None:
    monkeypatch.setitem(FIGURES, "rebuild", FIGURES["rebuild"]._replace(why_not="It decodes."))
    text = "\n".join(report.text(Report({}, {}, {"rebuild": measured((product, 10))})))
    assert ("It decodes." in text) is told


def test_the_report_says_that_a_reason_is_not_known() -> None:
    text = "\n".join(report.text(Report({}, {}, {"help": measured((9, 1))})))
    assert f"**Not met: {FIGURES['help'].title}.**" in text
    assert "not known" in text


def test_the_report_says_by_which_figure_the_machine_was_busy() -> None:
    text = "\n".join(report.text(Report({}, {}, {"lookup_p99": measured((27, 9.07))})))
    assert "| not judged: the machine was busy |" in text
    assert "the limit itself took 9.07 ms" in text
    assert "Not met" not in text


@pytest.mark.parametrize(("figure", "better"), [(FAST, 0.25), (SOON, -0.2)])
def test_a_comparison_knows_which_way_is_better(figure: Figure, better: float) -> None:
    assert comparison.better(figure, 0.8, 1.0) == pytest.approx(better)


def test_a_comparison_has_the_rows_that_both_reports_have() -> None:
    old = Report({}, {}, {"rebuild": measured((5, 10)), "claim": measured((3, 1))})
    new = Report({}, {}, {"rebuild": measured((8, 10)), "help": measured((1, 1))})
    *_, row = rows = list(comparison.lines(old, new))
    assert len(rows) == 4
    assert "| 5 → 8 | 10 → 10 | 0.5 → 0.8 | - | +60% | +60% |" in row


def test_a_comparison_divides_nothing_by_zero() -> None:
    old = Report({}, {}, {"fan_out_revoked": measured((4, 0)), "rebuild": measured((0, 1))})
    new = Report({}, {}, {"fan_out_revoked": measured((0, 2)), "rebuild": measured((3, 1))})
    *_, rebuild, revoked = comparison.lines(old, new)
    assert "| 0 → 3 | 1 → 1 | 0 → 3 | - | - | - |" in rebuild
    assert "| 4 → 0 | 0 → 2 | - | - | - | - |" in revoked


def test_both_percentiles_of_a_round_are_of_three_hundred_samples() -> None:
    watched = [number for number in range(1500) if visible.is_watched(number, 500)]
    found: list[float] = []
    asyncio.run(visible.consume(Plain(1500, watched), 1500, found))
    assert len(watched) == len(found) == 300


def test_fewer_events_a_second_are_all_watched() -> None:
    assert all(visible.is_watched(number, 62) for number in range(200))


def test_what_grows_ends_at_the_size_of_the_table() -> None:
    assert Sizes().steps(1000) == [125, 250, 500, 1000]
    assert Sizes(grows=False).steps(1000) == [1000]


def test_a_companys_jobs_may_use_every_agent_until_it_is_shared_with_nobody() -> None:
    company = Company(1, 4)
    projection = Projection(1, Policy(4, 30, 1000))
    messages = [*company.base(), company.started(7)]
    assert [projection.apply(record(m, 1, n, 0)) for n, m in enumerate(messages)] == [None] * len(
        messages
    )
    view = projection.view(builders.digest(token(7)), 0)
    assert view.status == 200
    assert view.body.count(b'"default_namespace":"default"') == 7
    assert 1000 < len(view.body) < 1400
    assert view.body.count(granted(company.agent_id(0))) == 1
    projection.apply(record(company.configured(0, ""), 1, 1000, 0))
    body = projection.view(view.id, 0).body
    assert body.count(b'"default_namespace"') == 6
    assert granted(company.agent_id(0)) not in body


@pytest.mark.parametrize(
    ("write", "mode", "lines"),
    [(ingest.single_posts, Mode.STRUCTURED, 200), (ingest.batch_posts, Mode.BATCH, 2)],
)
def test_every_team_of_the_ingest_may_send_its_events(
    write: Callable[[list[Company], Path], Posts], mode: Mode, lines: int, tmp_path: Path
) -> None:
    teams = companies(2)
    feeders = parse_feeders(json.dumps([ingest.entry(team) for team in teams]).encode())
    posts = write(teams, tmp_path / "posts")
    assert mode_of([(b"content-type", posts.media_type.encode())]) is mode
    requests = posts.file.read_text().splitlines()
    assert len(requests) == lines
    for given, body in (request.split(" ", 1) for request in requests):
        sender = find_feeder(feeders, given.encode())
        assert sender
        checks = Checks(sender, 1, strict=True)
        for index, found in enumerate(records_of(mode, [], body.encode(), 1)):
            checks.add(index, found)
        assert (checks.bad, checks.forbidden) == ([], [])
        assert len(checks.events) == (ingest.BATCH_EVENTS if mode is Mode.BATCH else 1)


class Acknowledging:
    """An AIOKafkaProducer, its own batch as well, that keeps what it gets."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.acknowledged: asyncio.Future[None] = asyncio.Future()

    async def send(self, _topic: str, value: bytes, **_: Any) -> asyncio.Future[None]:
        self.sent.append(value)
        return self.acknowledged

    def create_batch(self) -> "Acknowledging":
        return self

    def append(self, *, value: bytes, **_: Any) -> object:
        self.sent.append(value)
        return value

    async def send_batch(self, _batch: object, _topic: str, **_: Any) -> asyncio.Future[None]:
        return self.acknowledged


@pytest.mark.parametrize(
    ("media_type", "sent"),
    [(STRUCTURED_TYPE, [b'[{"a":1}, 2]']), (BATCH_TYPE, [b'{"a":1}', b"2"])],
)
async def test_the_limit_of_the_ingest_answers_after_the_acknowledgement(
    media_type: str, sent: list[bytes]
) -> None:
    limit, producer = BareIngest("", "topic"), Acknowledging()
    limit._producer = producer
    parts = [(b'[{"a":1}', True), (b", 2]", False)]
    received = iter([{"body": body, "more_body": more} for body, more in parts])
    answered: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        answered.append(message["type"])

    scope = {"type": "http", "headers": [(b"content-type", media_type.encode())]}
    serving = asyncio.create_task(limit(scope, receive, send))
    while not producer.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (producer.sent, answered) == (sent, [])
    producer.acknowledged.set_result(None)
    await serving
    assert answered == ["http.response.start", "http.response.body"]


def test_the_clock_of_a_process_counts_its_cpu_time() -> None:
    with processes.CpuClock(os.getpid()) as clock:
        began = time.process_time()
        while time.process_time() - began < 0.02:
            pass
        spent = time.process_time() - began
    assert clock.seconds >= spent


def test_the_smallest_typer_program_has_no_help_by_rich() -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "benchmarks.bare_cli", "--help"]
    shown = subprocess.run(
        argv, capture_output=True, text=True, check=True, env=processes.environment()
    )
    assert "Usage: " in shown.stdout
    assert " rich" not in shown.stderr
    assert "completion" not in shown.stdout


def test_no_size_is_below_five_rounds() -> None:
    sizes = Sizes()
    rounds = sizes.rounds, sizes.jobs_rounds, sizes.ingest_rounds, sizes.gitlab_rounds
    assert min(rounds) == 5
