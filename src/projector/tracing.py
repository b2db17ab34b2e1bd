"""OpenTelemetry spans for events and lookups that carry a sampled trace context.

Off unless the extra `tracing` is installed and OpenTelemetry's variables name an endpoint. Spans
hold types and positions in Kafka. They never hold ids, bodies, headers or tokens.
"""

import os
import re
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from msgspec import Struct

from projector.events.header_attributes import is_binary
from projector.events.model import MAX_EVENT_BYTES, BadEvent, KafkaRecord, known_type

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
ADVICE: Final = "install the extra `tracing`, or unset the variables that begin with OTEL_"
# Open spans of one partition; further events of a backlog get none.
MAX_OPEN: Final = 1000
# A worker that reads the topics again must not export old traces once more.
MAX_AGE_MS: Final = 3600 * 1000
MAX_STATE: Final = 512

# https://www.w3.org/TR/trace-context/ version 00; the last bit of the flags is "sampled".
_SAMPLED: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf]")
_MARK: Final = b'"traceparent"'

_tracer: "Tracer | None" = None


class TraceContext(Struct, frozen=True):
    """The trace context of a CloudEvent, by its extension for distributed tracing."""

    type: Any = None
    traceparent: Any = None
    tracestate: Any = None


def is_wanted() -> bool:
    """Whether the environment names an endpoint and does not switch traces off."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    named = any(os.environ.get(name) for name in ENDPOINTS)
    return named and not disabled and exporter != "none"


def start(service: str) -> None:
    """Start tracing if it is wanted; OTEL_SERVICE_NAME overrides `service`."""
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
        raise ImportError(f"{protocol} is not supported, only {PROTOCOL}")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    # Not the global provider: spans of libraries could hold tokens.
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("projector")


class EventSpans:
    """Spans of one partition, from an event's timestamp in Kafka until its views are in Redis."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], Span] = {}

    def applied(self, record: KafkaRecord, *, refused: bool) -> None:
        """Begin the span of an event that carries a sampled context."""
        if _tracer is None:
            return
        now = time.time_ns() // 1_000_000
        if len(self._open) >= MAX_OPEN or now - record.timestamp > MAX_AGE_MS:
            return
        carried = _context_of(record)
        # Only an accepted event is known to hold no token; `tracestate` is free text.
        context = _context(carried.traceparent, None if refused else carried.tracestate)
        if context is not None:
            # Overwritten if Redis refuses the views and the event is applied again.
            self._open[record.topic, record.offset] = _begin(
                _tracer, record, carried, context, min(record.timestamp, now), refused=refused
            )

    def written(self) -> None:
        """End the spans of all applied events: Redis has acknowledged their views."""
        if self._open:
            for span in self._open.values():
                span.end()
            self._open.clear()


def _begin(  # noqa: PLR0913
    tracer: "Tracer", record: KafkaRecord, carried: TraceContext, context: "Context", since: int,
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


def _context_of(record: KafkaRecord) -> TraceContext:
    """Return the event's own context, else that of the record's headers."""
    value, headers = record.value or b"", {name: content or b"" for name, content in record.headers}
    if not (_MARK in value or "traceparent" in headers or "ce_traceparent" in headers):
        return TraceContext()
    if is_binary(record.headers):
        own = TraceContext(
            *(_text(headers.get(f"ce_{name}")) for name in TraceContext.__struct_fields__)
        )
    else:
        own = _decoded(value)
    if own.traceparent is not None:
        return own
    return TraceContext(
        own.type, _text(headers.get("traceparent")), _text(headers.get("tracestate"))
    )


def _decoded(value: bytes) -> TraceContext:
    if len(value) > MAX_EVENT_BYTES:
        return TraceContext()
    try:
        return msgspec.json.decode(value, type=TraceContext)
    except (ValueError, RecursionError):
        return TraceContext()


def _text(content: bytes | None) -> str | None:
    return None if content is None else content[: MAX_STATE + 1].decode("latin-1")


def _type(name: object) -> str:
    """Return a known event type, or `unknown`: free text must not name a span."""
    try:
        return known_type(name) if isinstance(name, str) else "unknown"
    except BadEvent:
        return "unknown"


def _context(parent: object, state: object) -> "Context | None":
    """Return the context of a sampled trace; None if it is not sampled or not valid."""
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
    """Wrap `app` so that each GET of `path` with a sampled context gets a span."""
    return app if _tracer is None else _TracedApp(app, path, _tracer)


class _TracedApp:
    def __init__(self, app: "ASGIApp", path: str, tracer: "Tracer") -> None:
        self._app = app
        self._path = path
        self._tracer = tracer

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        is_lookup = scope["type"] == "http" and (scope["path"], scope["method"]) == (
            self._path, "GET",
        )  # fmt: skip
        context = _request_context(scope["headers"]) if is_lookup else None
        if context is None:
            await self._app(scope, receive, send)
        else:
            await self._trace(context, scope, receive, send)

    async def _trace(
        self, context: "Context", scope: "Scope", receive: "Receive", send: "Send"
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        attributes = {"http.request.method": "GET", "http.route": self._path}
        span = self._tracer.start_span(f"GET {self._path}", context, SpanKind.SERVER, attributes)

        async def send_noted(message: "Message") -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(StatusCode.ERROR)
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            span.end()


def _request_context(headers: list[tuple[bytes, bytes]]) -> "Context | None":
    """Return the context of a request, without its `tracestate`, which is free text."""
    parents = [content for name, content in headers if name == b"traceparent"]
    return _context(_text(parents[0]), None) if len(parents) == 1 else None
