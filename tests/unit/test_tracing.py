"""Traces: a span for what carries a sampled context, nothing for all else, and nothing secret."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from projector import tracing
from projector.events.model import KafkaRecord
from projector.tracing import EventSpans, traced
from tests import builders
from tests.unit.events.test_cloudevents import binary

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = f"00-{TRACE}-{PARENT}-01"
OTHER = f"00-{TRACE[::-1]}-{PARENT}-01"
TOKEN = "glcbt-64_abcdefghijklmnopqrst"
PATH = "/looked/up"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Tracing switched on; what was exported."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ALWAYS_ON)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return exporter


def now() -> int:
    return time.time_ns() // 1_000_000


def record(
    message: Any, *headers: tuple[str, bytes], offset: int = 7, age_ms: int = 500
) -> KafkaRecord:
    return builders.record(
        message, offset, partition=3, timestamp=now() - age_ms, headers=tuple(headers)
    )


def project(*records: KafkaRecord, refused: bool = False) -> EventSpans:
    events = EventSpans()
    for each in records:
        events.applied(each, refused=refused)
    events.written()
    return events


def started(**attributes: Any) -> dict[str, Any]:
    return builders.started(9, 7, **attributes)


def test_an_event_with_a_sampled_context_gets_a_span_in_its_trace(
    spans: InMemorySpanExporter,
) -> None:
    project(record(started(traceparent=CONTEXT, tracestate="vendor=1")))
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("project job.started", SpanKind.CONSUMER)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.context.trace_state.get("vendor") == "1"
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "project",
        "messaging.destination.name": "job-lifecycle",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7,
        "cloudevents.event_type": "job.started",
    }


def test_a_span_begins_with_the_record_in_kafka_and_ends_with_the_views_in_redis(
    spans: InMemorySpanExporter,
) -> None:
    events, event = EventSpans(), record(started(traceparent=CONTEXT))
    events.applied(event, refused=False)
    assert not spans.get_finished_spans()
    # Redis refused the views; the same owner reads the event again.
    events.applied(event, refused=False)
    events.written()
    events.written()
    (span,) = spans.get_finished_spans()
    assert span.start_time == event.timestamp * 1_000_000
    assert span.end_time is not None
    assert span.end_time > span.start_time


@pytest.mark.parametrize(
    "carrying",
    [
        record(started(traceparent=CONTEXT)),
        record(started(traceparent=CONTEXT), ("traceparent", OTHER.encode())),
        record(started(), ("traceparent", CONTEXT.encode())),
        binary(started(traceparent=CONTEXT))._replace(timestamp=now()),
        record(b"{", ("traceparent", CONTEXT.encode())),
        record(None, ("traceparent", CONTEXT.encode())),
    ],
    ids=["structured", "own before header", "header", "binary", "not JSON", "no value"],
)
def test_a_context_is_found_wherever_it_travels(
    carrying: KafkaRecord, spans: InMemorySpanExporter
) -> None:
    project(carrying)
    (span,) = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE
    is_event = carrying.value not in (None, b"{")
    assert span.name == ("project job.started" if is_event else "project unknown")


HOSTILE: list[Any] = [
    None, 5, {}, [CONTEXT], "", "x", CONTEXT[:-1], CONTEXT + "0", CONTEXT.upper(), CONTEXT + "\n",
    "\u0660" * 55, f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01", CONTEXT + "x" * 100_000, "\0" * 55,
]  # fmt: skip


@pytest.mark.parametrize(
    "context", [*HOSTILE, f"00-{TRACE}-{PARENT}-00"], ids=lambda c: str(c)[:60]
)
def test_without_a_valid_and_sampled_context_there_is_no_span(
    context: Any, spans: InMemorySpanExporter
) -> None:
    project(record(started(traceparent=context)))
    project(record(started(), ("traceparent", str(context).encode()))) if context else None
    assert not spans.get_finished_spans()


@pytest.mark.parametrize(
    "state", [5, "", "=", "a=1,a=2", "x" * 513, "\n", "a=" + "x" * 500, ",,,", "a=\x1b[2J"]
)
def test_no_state_keeps_an_event_from_its_trace(state: Any, spans: InMemorySpanExporter) -> None:
    project(record(started(traceparent=CONTEXT, tracestate=state)))
    (span,) = spans.get_finished_spans()
    assert "\x1b" not in str(span.context.trace_state)


def test_a_refused_event_is_an_error_and_nothing_of_it_is_told(
    spans: InMemorySpanExporter,
) -> None:
    message = started(traceparent=CONTEXT, tracestate=f"a={TOKEN}", subject=TOKEN) | {"type": TOKEN}
    project(record(message), refused=True)
    (span,) = spans.get_finished_spans()
    assert (span.name, span.status.status_code) == ("project unknown", StatusCode.ERROR)
    assert TOKEN not in span.to_json()


def test_no_digest_and_no_id_is_in_a_span(spans: InMemorySpanExporter) -> None:
    project(record(started(traceparent=CONTEXT)))
    (span,) = spans.get_finished_spans()
    assert builders.digest("token-9") not in span.to_json()


def test_what_is_read_again_much_later_is_not_told_again(spans: InMemorySpanExporter) -> None:
    project(record(started(traceparent=CONTEXT), age_ms=tracing.MAX_AGE_MS + 1000))
    assert not spans.get_finished_spans()


def test_a_record_from_the_future_gets_a_span_that_does_not_begin_there(
    spans: InMemorySpanExporter,
) -> None:
    project(record(started(traceparent=CONTEXT), age_ms=-3_600_000))
    (span,) = spans.get_finished_spans()
    assert span.start_time is not None
    assert span.start_time <= time.time_ns()


def test_spans_that_are_open_at_once_are_bounded(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MAX_OPEN", 3)
    project(*(record(started(traceparent=CONTEXT), offset=number) for number in range(9)))
    assert len(spans.get_finished_spans()) == 3


# off


def test_off_nothing_is_looked_at() -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    untouchable: Any = Untouchable()
    EventSpans().applied(untouchable, refused=False)
    assert traced(untouchable, PATH) is untouchable


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/x"}, True),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE "}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
    ids=str,
)
def test_the_variables_of_opentelemetry_switch_it_on_and_off(
    environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing.is_wanted() is wanted


def test_off_opentelemetry_is_not_imported() -> None:
    code = (
        "import sys, projector.tracing as t; t.start('x'); sys.exit('opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tracing, "_tracer", None)
    monkeypatch.setattr(tracing, "is_wanted", lambda: True)
    yield
    assert tracing._tracer is None


@pytest.mark.usefixtures("wanted")
def test_a_missing_extra_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with capture_logs() as said:
        tracing.start("x")
    assert "install the extra `tracing`" in said[0]["advice"]


@pytest.mark.usefixtures("wanted")
def test_a_protocol_that_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with capture_logs() as said:
        tracing.start("x")
    assert "grpc" in said[0]["reason"]


# lookups


def answering(status: int) -> Any:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def ask(*headers: tuple[bytes, bytes], status: int = 200, **more: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": PATH, "headers": headers} | more
    await traced(answering(status), PATH)(scope, None, send)  # type: ignore[arg-type]
    return sent


@pytest.mark.parametrize(("status", "code"), [(200, "UNSET"), (401, "UNSET"), (503, "ERROR")])
async def test_a_lookup_with_a_sampled_context_gets_a_span_without_its_token(
    status: int, code: str, spans: InMemorySpanExporter
) -> None:
    headers = [(b"traceparent", CONTEXT.encode()), (b"job-token", TOKEN.encode())]
    state = (b"tracestate", f"a={TOKEN}".encode())
    query = f"job_token={TOKEN}".encode()
    sent = await ask(*headers, state, status=status, query_string=query)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == (f"GET {PATH}", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert json.loads(span.to_json())["attributes"] == {
        "http.request.method": "GET", "http.route": PATH, "http.response.status_code": status,
    }  # fmt: skip
    assert span.status.status_code.name == code
    assert TOKEN not in span.to_json()


@pytest.mark.parametrize("context", [c for c in HOSTILE if isinstance(c, str) and c.isascii()])
async def test_a_lookup_with_another_context_is_answered_without_a_span(
    context: str, spans: InMemorySpanExporter
) -> None:
    assert len(await ask((b"traceparent", context.encode()))) == 2
    assert not spans.get_finished_spans()


async def test_what_is_no_lookup_or_has_no_or_two_contexts_gets_no_span(
    spans: InMemorySpanExporter,
) -> None:
    context = (b"traceparent", CONTEXT.encode())
    await ask()
    await ask(context, context)
    await ask(context, path="/health/live")
    await ask(context, method="POST")
    assert not spans.get_finished_spans()


async def test_a_span_ends_although_the_lookup_fails(spans: InMemorySpanExporter) -> None:
    async def broken(*_: Any) -> None:
        raise ConnectionError("the caller is gone")

    scope = {
        "type": "http",
        "method": "GET",
        "path": PATH,
        "headers": [(b"traceparent", CONTEXT.encode())],
    }
    with pytest.raises(ConnectionError):
        await traced(broken, PATH)(scope, None, None)  # type: ignore[arg-type]
    assert len(spans.get_finished_spans()) == 1
