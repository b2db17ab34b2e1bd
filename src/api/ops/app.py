"""The operators' page in a process of its own, for `projector ops`."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from api.http_semantics import HttpSemantics
from api.ops.auth import LoopbackAccess, TokenAccess, is_loopback
from api.ops.data import BackgroundSource
from api.ops.routes import PATH, create_routes
from projector.config.env import variable_name
from projector.config.settings import Settings


def exposure_obstacle(settings: Settings, host: str) -> str | None:
    """Return why the page must not be served on this address, or None."""
    if settings.ops_secret or is_loopback(host):
        return None
    return (
        f"{host or 'every address'} is not a loopback address, and others could read who is a "
        f"member where: set {variable_name('ops_token')}, or use --host 127.0.0.1"
    )


def page_url(host: str, port: int) -> str:
    """Return the page's address for a browser; `localhost` if every address is served."""
    named = "localhost" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{named}]' if ':' in named else named}:{port}{PATH}/"


def create_ops(settings: Settings) -> ASGIApp:
    """Create the ASGI application: the page and `/health/live`."""
    source = BackgroundSource(settings)
    token = settings.ops_secret
    access = TokenAccess(token.get_secret_value()) if token else LoopbackAccess()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await source.close()

    live = Route("/health/live", _live)
    routes = [live, *create_routes(access, source)]
    return HttpSemantics(Starlette(routes=routes, lifespan=lifespan))


async def _live(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "live"})
