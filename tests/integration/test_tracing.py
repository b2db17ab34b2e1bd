"""Traces of an event and of a lookup, as an OpenTelemetry collector receives them."""

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests import builders
from tests.integration.deployment import Deployment
from tests.integration.servers import eventually

TOKEN = "glcbt-64_example-of-a-token-x"
PARENT = "00f067aa0ba902b7"
FED, LOOKED_UP, UNSAMPLED = "1" * 32, "2" * 32, "3" * 32


class Collector:
    """Receives spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                packed = self.headers.get("content-encoding") == "gzip"
                bodies.append(gzip.decompress(body) if packed else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> dict[str, tuple[str, Any]]:
        """Return service and span by trace."""
        found = {}
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found[span.trace_id.hex()] = (attributes["service.name"], span)
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def context(trace: str, sampled: bool = True) -> str:
    return f"00-{trace}-{PARENT}-0{int(sampled)}"


@pytest.mark.usefixtures("real_processes")
def test_an_event_and_a_lookup_are_followed_to_where_they_end(
    deployment: Deployment, collector: Collector
) -> None:
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    assert deployment.command("topics").returncode == 0
    deployment.start("worker", **otel)
    deployment.start_api(**otel)
    deployment.until_fresh()
    deployment.feed(builders.group(3), builders.project(7, 3), builders.member(1, group_id=3))
    deployment.feed(builders.group(4, 3, traceparent=context(UNSAMPLED, sampled=False)))
    deployment.feed(builders.started(9, 7, token=TOKEN, traceparent=context(FED)))
    deployment.until(TOKEN, 200)
    deployment.look_up(TOKEN, traceparent=context(LOOKED_UP))
    eventually(lambda: {FED, LOOKED_UP} <= set(collector.spans()), "both traces")

    assert set(collector.spans()) == {FED, LOOKED_UP}
    service, span = collector.spans()[FED]
    assert (service, span.name) == ("projector-worker", "project job.started")
    assert span.parent_span_id.hex() == PARENT
    assert span.end_time_unix_nano > span.start_time_unix_nano
    service, span = collector.spans()[LOOKED_UP]
    assert (service, span.name) == ("projector-api", "GET /api/v4/job/allowed_agents")
    for secret in (TOKEN.encode(), builders.digest(TOKEN).encode()):
        assert not any(secret in body for body in collector.bodies)


@pytest.mark.usefixtures("real_processes")
def test_a_collector_that_is_away_holds_nothing_up(deployment: Deployment) -> None:
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    assert deployment.command("topics").returncode == 0
    worker = deployment.start("worker", **otel)
    deployment.start_api(**otel)
    deployment.until_fresh()
    deployment.feed(builders.group(3), builders.project(7, 3), builders.member(1, group_id=3))
    deployment.feed(builders.started(9, 7, token=TOKEN, traceparent=context(FED)))
    deployment.until(TOKEN, 200)
    assert worker.stop() == 0
    assert TOKEN not in worker.log()
