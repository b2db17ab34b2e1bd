"""The HTTP application of `projector ingest`."""

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http_semantics import HttpSemantics
from projector.clients import redis_client
from projector.config.settings import Settings
from projector.ingest import metrics, openapi
from projector.ingest.body import RequestBody
from projector.ingest.feeder_file import FeederFile
from projector.ingest.intake import Intake, Reply
from projector.ingest.protocol import STOPPING
from projector.ingest.readiness import Readiness
from projector.ingest.refusals import TOKENS_UNUSABLE, RefusedRequestError

log = structlog.get_logger()

EVENTS: Final = "/events"
SendEvents = Callable[[Request], Awaitable[Response]]


def create_ingest(settings: Settings, tokens: FeederFile) -> ASGIApp:
    """Create the ASGI application of `projector ingest`."""
    readiness, redis = Readiness(settings), redis_client.create_redis(settings)
    intake = Intake(settings, tokens, readiness, redis)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        watching = [asyncio.create_task(work) for work in (tokens.watch(), readiness.watch())]
        yield {STOPPING: intake.stopping}
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        await intake.stop()
        await redis.aclose()

    return create_application(intake, tokens, readiness, lifespan)


def create_application(
    intake: Intake, tokens: FeederFile, readiness: Readiness, lifespan: Any = None
) -> ASGIApp:
    """Create the ASGI application of these parts."""
    app = FastAPI(
        title="allowed-agents projector: ingest",
        version=version("allowed-agents-projector"),
        description=openapi.ABOUT,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _refuse)
    send_events = _events(intake)
    app.post(EVENTS, tags=["events"], status_code=204, **openapi.EVENTS)(send_events)
    app.include_router(_health(tokens, readiness))
    app.openapi_schema = openapi.describe(app.openapi())
    return HttpSemantics(_EventsFirst(send_events, app))


class _EventsFirst:
    """Serves requests with events; hands others to FastAPI.

    FastAPI's own way to its route takes longer than the check of an event. It has the route for its
    document, and for other methods.
    """

    def __init__(self, send_events: SendEvents, others: ASGIApp) -> None:
        self._send_events = send_events
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == EVENTS and scope["method"] == "POST":
            response = await self._send_events(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._others(scope, receive, send)


def _events(intake: Intake) -> SendEvents:
    async def send_events(request: Request) -> Response:
        """Send events: one, or a batch that is taken as a whole or not at all."""
        began = time.monotonic()
        name, response = await _answer(intake, request)
        seconds = time.monotonic() - began
        metrics.labelled(metrics.REQUESTS, name, str(response.status_code)).observe(seconds)
        if name != metrics.NO_FEEDER:
            log.info("request", feeder=name, status=response.status_code, seconds=round(seconds, 3))
        return response

    return send_events


async def _answer(intake: Intake, request: Request) -> tuple[str, Response]:
    """Return the name of the token and the answer."""
    name, body = metrics.NO_FEEDER, RequestBody(request)
    try:
        feeder = intake.find_feeder(request)
        name = feeder.name
        return name, _response(await intake.take(request, body, feeder))
    except RefusedRequestError as refusal:
        status, content, headers = refusal.status, refusal.body, refusal.headers
    except Exception as error:
        # Without its message, which may quote the body.
        log.error(  # noqa: TRY400
            "request failed", error=type(error).__name__,
            stack="".join(traceback.format_tb(error.__traceback__)),
        )  # fmt: skip
        status, content, headers = 500, {"message": "the ingest failed; see its log"}, {}
    if "connection" not in headers and not await body.discard():
        headers = {**headers, "connection": "close"}
    return name, JSONResponse(content, status, headers)


def _response(reply: Reply) -> Response:
    if reply.body is None:
        return Response(status_code=reply.status, headers=reply.headers)
    return JSONResponse(reply.body, reply.status, reply.headers)


def _health(tokens: FeederFile, readiness: Readiness) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether this process runs; independent of Kafka."""
        return {"status": "live"}

    @router.get("/health/ready", tags=["health"], responses={503: {"description": "Not ready"}})
    async def ready() -> JSONResponse:
        """Whether events can be taken: Kafka answers, its topics and the tokens can be used."""
        if fault := TOKENS_UNUSABLE if tokens.fault else readiness.fault:
            return JSONResponse({"status": "not ready", "reason": fault}, 503)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", tags=["health"], response_class=Response)
    async def measured() -> Response:
        """Counts of this process, for Prometheus."""
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return router


async def _refuse(_request: Request, error: Exception) -> JSONResponse:
    """Word a 404 or 405 as all other refusals."""
    assert isinstance(error, HTTPException)  # noqa: S101  it is the handler of these
    message = f"{error.detail}; events are taken by POST /events"
    return JSONResponse({"message": message}, error.status_code, error.headers)
