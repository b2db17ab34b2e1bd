"""Traces by OpenTelemetry: what became of an event or a lookup whose trace somebody follows.

Off unless the extra `tracing` is installed and the variables of OpenTelemetry say where traces go.
Only what carries a sampled trace context gets a span; without one nothing is done. Spans hold
places and types: no ids, no bodies, no headers, no tokens.
"""

import os
import re
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from msgspec import Struct

from projector.events.cloudevents import known_type
from projector.events.model import MAX_EVENT_BYTES, BadEvent, KafkaRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
ADVICE: Final = "install the extra `tracing`, or unset the variables that begin with OTEL_"
# Of one partition; further events of a backlog go without.
MAX_OPEN: Final = 1000
# Whoever reads the topics again, perhaps from their beginning, does not tell old traces anew.
MAX_AGE_MS: Final = 3600 * 1000
MAX_STATE: Final = 512

# https://www.w3.org/TR/trace-context/ version 00; the last bit of the flags says "sampled".
_SAMPLED: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf]")
_MARK: Final = b'"traceparent"'

_tracer: "Tracer | None" = None


class Carried(Struct, frozen=True):
    """The trace context of a CloudEvent, by its extension for distributed tracing."""

    type: Any = None
    traceparent: Any = None
    tracestate: Any = None


def is_wanted() -> bool:
    """Whether the environment says where traces go, and does not switch them off."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    named = any(os.environ.get(name) for name in ENDPOINTS)
    return named and not disabled and exporter != "none"


def start(service: str) -> None:
    """Trace from here on, if that is wanted; `service` unless OTEL_SERVICE_NAME says otherwise."""
    global _tracer  # noqa: PLW0603  one per process, like the environment that decides
    if not is_wanted():
        return
    try:
        _tracer = _exporting(service)
    except ImportError as error:
        log.warning("no traces", reason=str(error), advice=ADVICE)
    else:
        log.info("tracing", service=os.environ.get("OTEL_SERVICE_NAME") or service)


def _exporting(service: str) -> "Tracer":
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), PROTOCOL)
    if protocol != PROTOCOL:
        raise ImportError(f"{protocol} is not known here, only {PROTOCOL}")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    # Not the global one: libraries that trace by themselves would put into spans what they like.
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("projector")


class EventSpans:
    """One partition's spans, from an event's timestamp in Kafka until its views are in Redis."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], Span] = {}

    def applied(self, record: KafkaRecord, *, refused: bool) -> None:
        """Begin the span of an event that carries a sampled context; others cost nothing."""
        if _tracer is None:
            return
        now = time.time_ns() // 1_000_000
        if len(self._open) >= MAX_OPEN or now - record.timestamp > MAX_AGE_MS:
            return
        carried = _carried(record)
        # A state is whatever a producer likes, and only what was not refused is known to be clean.
        context = _context(carried.traceparent, None if refused else carried.tracestate)
        if context is not None:
            # Where Redis refuses the views, the same event is applied once more.
            self._open[record.topic, record.offset] = _begin(
                _tracer, record, carried, context, min(record.timestamp, now), refused=refused
            )

    def written(self) -> None:
        """Redis has acknowledged the views of everything applied so far."""
        if self._open:
            for span in self._open.values():
                span.end()
            self._open.clear()


def _begin(  # noqa: PLR0913
    tracer: "Tracer", record: KafkaRecord, carried: Carried, context: "Context", since: int,
    *, refused: bool,
) -> "Span":  # fmt: skip
    from opentelemetry.trace import SpanKind, StatusCode

    name = _type(carried.type)
    span = tracer.start_span(
        f"project {name}",
        context,
        SpanKind.CONSUMER,
        {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "project",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "cloudevents.event_type": name,
        },
        start_time=since * 1_000_000,
    )
    if refused:
        span.set_status(StatusCode.ERROR, "see the dead letter")
    return span


def _carried(record: KafkaRecord) -> Carried:
    """The event's own context, else that of the record's headers."""
    value, headers = record.value or b"", {name: content or b"" for name, content in record.headers}
    if not (_MARK in value or "traceparent" in headers or "ce_traceparent" in headers):
        return Carried()
    if "ce_specversion" in headers:
        own = Carried(*(_text(headers.get(f"ce_{name}")) for name in Carried.__struct_fields__))
    else:
        own = _decoded(value)
    if own.traceparent is not None:
        return own
    return Carried(own.type, _text(headers.get("traceparent")), _text(headers.get("tracestate")))


def _decoded(value: bytes) -> Carried:
    if len(value) > MAX_EVENT_BYTES:
        return Carried()
    try:
        return msgspec.json.decode(value, type=Carried)
    except (ValueError, RecursionError):
        return Carried()


def _text(content: bytes | None) -> str | None:
    return None if content is None else content[: MAX_STATE + 1].decode("latin-1")


def _type(name: object) -> str:
    """One of the types that there are: whatever else is said names no span."""
    try:
        return known_type(name) if isinstance(name, str) else "unknown"
    except BadEvent:
        return "unknown"


def _context(parent: object, state: object) -> "Context | None":
    """The context of a trace that is sampled; None for any other, and for what is none."""
    if not isinstance(parent, str) or not _SAMPLED.fullmatch(parent):
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": parent}
    if isinstance(state, str) and len(state) <= MAX_STATE:
        carrier["tracestate"] = state
    context = TraceContextTextMapPropagator().extract(carrier)
    return context if get_current_span(context).get_span_context().is_valid else None


def traced(app: "ASGIApp", path: str) -> "ASGIApp":
    """`app`, such that each GET of `path` with a sampled context gets a span; itself when off."""
    return app if _tracer is None else _Traced(app, path, _tracer)


class _Traced:
    def __init__(self, app: "ASGIApp", path: str, tracer: "Tracer") -> None:
        self._app = app
        self._path = path
        self._tracer = tracer

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        is_lookup = scope["type"] == "http" and (scope["path"], scope["method"]) == (
            self._path, "GET",
        )  # fmt: skip
        context = _asked(scope["headers"]) if is_lookup else None
        if context is None:
            await self._app(scope, receive, send)
        else:
            await self._follow(context, scope, receive, send)

    async def _follow(
        self, context: "Context", scope: "Scope", receive: "Receive", send: "Send"
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        attributes = {"http.request.method": "GET", "http.route": self._path}
        span = self._tracer.start_span(f"GET {self._path}", context, SpanKind.SERVER, attributes)

        async def noting(message: "Message") -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(StatusCode.ERROR)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            span.end()


def _asked(headers: list[tuple[bytes, bytes]]) -> "Context | None":
    """The context of a request; its state, which callers make up, is not carried on."""
    parents = [content for name, content in headers if name == b"traceparent"]
    return _context(_text(parents[0]), None) if len(parents) == 1 else None
