"""The bridge's own web page: `/metrics` for Prometheus, `/health/live` for a supervisor."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from prometheus_client import generate_latest

from projector.config.env import GITLAB, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.errors import WebPortError
from projector.ports import free_port, port_obstacle

METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serving(
    settings: GitlabSettings, describe: Callable[[], dict[str, Any]]
) -> AsyncIterator[str]:
    """Serve for the block; yield the address. `describe` adds to the answer of `/health/live`.

    The page answers as long as the event loop turns, which is what its liveness means. Raises
    `WebPortError`.
    """
    host = settings.web_host
    if obstacle := port_obstacle(settings.web_port, host):
        raise _error(obstacle)
    port = settings.web_port or free_port(host)
    # A client that holds its connection must not hold up the end of the process.
    runner = web.AppRunner(_application(describe), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await _listen(web.TCPSite(runner, host, port))
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


async def _listen(site: web.TCPSite) -> None:
    try:
        await site.start()
    except OSError as error:
        raise _error(f"no server can listen there ({error.strerror})") from error


def _error(obstacle: str) -> WebPortError:
    names = (variable_name(GITLAB + name) for name in ("web_host", "web_port"))
    return WebPortError(f"{obstacle}; {' and '.join(names)} choose another, port 0 a free one")


def _application(describe: Callable[[], dict[str, Any]]) -> web.Application:
    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": METRICS})

    async def show_liveness(_request: web.Request) -> web.Response:
        body = {"status": "live", **describe()}
        return web.json_response(body, headers={"Cache-Control": "no-store"})

    application = web.Application(client_max_size=1024)
    application.router.add_get("/metrics", show_metrics)
    application.router.add_get("/health/live", show_liveness)
    return application
