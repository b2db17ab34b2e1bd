"""The HTTP application: lookups first, then FastAPI for health, metrics and documents."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

from api import metrics
from api.freshness import Freshness
from api.http_semantics import HttpSemantics
from api.lookup import PATH, Lookup
from api.lookup_protocol import LOOKUP, TRACED
from api.lookup_request import parse_request
from api.ops.auth import TokenAccess
from api.ops.background import CachedCall
from api.ops.routes import create_routes
from api.proofs import Proofs
from api.redis_mget import create_reads
from api.tokens.job_token_keys import KeyFiles
from api.tokens.refusal_log import RefusalLog
from api.tokens.signed_tokens import SignedTokens
from projector import log, tracing
from projector.clients import redis_client, redis_servers
from projector.config.settings import Settings
from projector.domain.views import AllowedAgents, Refusal

if TYPE_CHECKING:
    from api.ops.data import BackgroundSource

EXAMPLE: Final[AllowedAgents] = {
    "allowed_agents": [{"id": 5, "config_project": {"id": 3}, "configuration": {}}],
    "job": {"id": 9},
    "pipeline": {"id": 2323},
    "project": {"id": 123213, "groups": [{"id": 12}, {"id": 3}]},
    "user": {
        "id": 1,
        "username": "root",
        "roles_in_project": ["guest", "planner", "reporter", "developer"],
    },
    "environment": {"slug": "production", "tier": "production"},
}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/json": {"example": EXAMPLE}}},
    401: {"model": Refusal, "description": "No token, or not the token of a live job"},
    403: {"model": Refusal, "description": "The job's user is not active"},
    503: {
        "model": Refusal,
        "description": "The answer could be too old; see `reason` and try again",
    },
}
_STEPS: Final = PATH.strip("/").split("/")
NO_STORE: Final = {"cache-control": "no-store"}
SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "used before the other two"},
    "job_token": {"type": "apiKey", "in": "query", "name": "job_token"},
    "Job-Token": {"type": "apiKey", "in": "header", "name": "Job-Token"},
}


class LookupFirst:
    """Answers lookups before FastAPI's router, which would halve the speed."""

    def __init__(self, app: ASGIApp, lookup: Lookup) -> None:
        self._app = app
        self._lookup = lookup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http" or not is_lookup_path(scope["path"]):
            await self._app(scope, receive, send)
        elif scope["method"] == "GET":
            reply = await self._lookup.answer(
                parse_request(scope["headers"], scope["query_string"])
            )
            await send(
                {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
            )
            await send({"type": "http.response.body", "body": reply.body})
        else:
            await self._app({**scope, "path": PATH}, receive, send)


def is_lookup_path(path: str) -> bool:
    """Whether GitLab takes the path for that of a lookup: it ignores further slashes."""
    return path == PATH or [*filter(None, path.split("/"))] == _STEPS


def create_api() -> ASGIApp:
    """Create the ASGI application of `projector api` from the environment's settings."""
    settings = Settings.load()
    log.configure(settings.log_level)
    tracing.start("projector-api")
    server = redis_servers.RedisServers()
    redis = redis_client.create_redis(settings, server)
    freshness = Freshness(redis, server)
    keys = KeyFiles(settings.job_token_key_files) if settings.job_token_keys else None
    lookup = Lookup(
        create_reads(redis),
        freshness,
        Proofs(freshness, miss_grace=settings.miss_grace, max_waiting=settings.max_waiting),
        max_staleness=settings.max_staleness,
        signed=_signed_tokens(settings, keys, freshness) if keys else None,
    )

    operators = _operators(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        polling = asyncio.create_task(freshness.run(settings.redis_place))
        flushing = asyncio.create_task(metrics.flush_regularly())
        watching = asyncio.create_task(keys.watch()) if keys else None
        yield {LOOKUP: lookup, TRACED: tracing.is_wanted()}
        flushing.cancel()
        if watching:
            watching.cancel()
        # Repeated, because libraries sometimes lose a cancellation.
        while not polling.done():
            polling.cancel()
            await asyncio.wait({polling}, timeout=0.1)
        if operators:
            await operators.close()
        await redis.aclose()

    app = FastAPI(
        title="allowed-agents projector",
        version=version("allowed-agents-projector"),
        description="Which cluster agents may a CI job token use?",
        lifespan=lifespan,
        # A redirect would repeat the query, and with it a token, in its Location header.
        redirect_slashes=False,
    )
    app.include_router(documented_routes(lookup, freshness, settings.max_staleness))
    app.openapi_schema = _openapi(app)
    if settings.ops_secret and operators:
        access = TokenAccess(settings.ops_secret.get_secret_value())
        app.routes.extend(create_routes(access, operators))
    return tracing.traced(HttpSemantics(LookupFirst(app, lookup)), PATH)


def _operators(settings: Settings) -> "BackgroundSource | None":
    """Create the source of the operators' page; None without a token, which is without the page."""
    if not settings.ops_secret:
        return None
    # It imports Kafka's client and the operators' functions, which lookups need not wait for.
    from api.ops.data import BackgroundSource  # noqa: PLC0415

    return BackgroundSource(settings, metrics.lookups)


def _signed_tokens(settings: Settings, keys: KeyFiles, freshness: Freshness) -> SignedTokens:
    issuer, prefix = settings.job_token_issuer or "", settings.job_token_prefix
    return SignedTokens(keys, issuer, prefix, freshness.clock.expected, RefusalLog())


def documented_routes(lookup: Lookup, freshness: Freshness, max_staleness: float) -> APIRouter:
    """Create the routes that the OpenAPI document describes."""
    router = APIRouter()

    @router.get(PATH, response_model=AllowedAgents, responses=RESPONSES, tags=["lookup"])
    async def allowed_agents(request: Request) -> Response:
        """Which cluster agents may the job of this token use?

        One token is used: the bearer token, else the `job_token` parameter, else the `Job-Token`
        header. `Cache-Control: max-age=N` asks for an answer that is at most N seconds old.
        """
        reply = await lookup.answer(parse_request(request.headers.raw, request.url.query.encode()))
        response = Response(reply.body, reply.status)
        response.raw_headers = reply.headers
        return response

    @router.get("/", include_in_schema=False)
    async def links() -> dict[str, str]:
        """For people who open the address itself."""
        return {"lookup": PATH, "documents": "/docs", "health": "/health/ready"}

    @router.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether this process runs; independent of Redis and the worker."""
        return {"status": "live"}

    @router.get("/health/ready", tags=["health"], responses={503: {"description": "Not ready"}})
    async def ready() -> JSONResponse:
        """Whether this process can answer lookups of at least one partition. For load balancers."""
        return _health(freshness, max_staleness, "ready", fresh_needed=1)

    @router.get("/health/fresh", tags=["health"], responses={503: {"description": "Not fresh"}})
    async def fresh() -> JSONResponse:
        """Whether every partition is fresh. For alerts and deployments, not for load balancers."""
        return _health(freshness, max_staleness, "fresh", fresh_needed=len(freshness.ages()))

    async def exposition() -> bytes:
        metrics.flush()
        return await asyncio.to_thread(metrics.exposition, freshness)

    # Many scrapes at once are computed once, so that lookups keep most of the core.
    exposed = CachedCall(exposition, 0.0)

    @router.get("/metrics", tags=["health"], response_class=Response)
    async def measured() -> Response:
        """Counts of this API, and the staleness of each partition, for Prometheus."""
        text = await exposed.get()
        return Response(text, headers=NO_STORE, media_type=CONTENT_TYPE_LATEST)

    return router


def _health(
    freshness: Freshness, max_staleness: float, state: str, *, fresh_needed: int
) -> JSONResponse:
    """Return 200 if Redis answers and so many partitions are fresh, else 503 with the reason."""
    ages = freshness.ages()
    stale = [p for p, age in enumerate(ages) if age is None or age > max_staleness]
    body = {"status": state, "partitions": len(ages), "stale_partitions": stale}
    if freshness.reachable and ages and len(ages) - len(stale) >= fresh_needed:
        return JSONResponse(body, headers=NO_STORE)
    reason = _obstacle(freshness, len(ages), stale)
    return JSONResponse({**body, "status": f"not {state}", "reason": reason}, 503, NO_STORE)


def _obstacle(freshness: Freshness, partitions: int, stale: list[int]) -> str:
    if not freshness.reachable:
        return "Redis is not reachable"
    if freshness.fault:
        return freshness.fault
    if not partitions:
        return "no worker has said yet how many partitions there are"
    reason = f"{len(stale)} of {partitions} partitions are staler than the bound"
    return freshness.with_cause(reason, stale)


def _openapi(app: FastAPI) -> dict[str, Any]:
    schema = app.openapi()
    schema["components"]["securitySchemes"] = SECURITY_SCHEMES
    schema["paths"][PATH]["get"]["security"] = [{name: []} for name in SECURITY_SCHEMES]
    return schema
