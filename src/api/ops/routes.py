"""Routes of the operators' page: static files without data, and the data for those with access."""

import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final, Protocol

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from api.ops.auth import AccessRefusedError
from projector.events.model import MAX_ID

log = structlog.get_logger()

PATH: Final = "/ops"
# Trusted types without a policy: the script cannot turn text into HTML.
POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex",
}
_HTML: Final = "text/html; charset=utf-8"
_CSS: Final = "text/css; charset=utf-8"
_SCRIPT: Final = "text/javascript; charset=utf-8"
_STYLES: Final = ("base", "board", "state")
_MODULES: Final = (
    "alarm", "chart", "dom", "explanation", "format", "header", "letters", "minutes", "page",
    "partitions", "question", "requests", "sources", "tiles",
)  # fmt: skip
# By path: the file, and its media type.
STATIC: Final = {
    "": ("index.html", _HTML),
    **{f"{name}.css": (f"{name}.css", _CSS) for name in _STYLES},
    **{f"{name}.js": (f"{name}.js", _SCRIPT) for name in _MODULES},
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_ID: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)

Data = Callable[[Request], Awaitable[Any]]


class Access(Protocol):
    """Decides which requests may read the data."""

    @property
    def token_needed(self) -> bool:
        """Whether the page must ask for a token."""

    def check(self, request: Request) -> None:
        """Raise `AccessRefusedError` unless the request may read the data."""


class Source(Protocol):
    """The data of the page. Each method may raise `AccessRefusedError`."""

    async def status(self, *, every_partition: bool) -> dict[str, Any]:
        """Return the causes of trouble, the partitions that are not fresh, or all, and totals."""

    async def letters(self) -> dict[str, Any]:
        """Return the latest dead letters."""

    async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
        """Return the answer for the job's token, and why."""


def create_routes(access: Access, source: Source) -> list[BaseRoute]:
    """Create all routes below `/ops/`; every answer carries `HEADERS`, a 404 too."""

    async def shell_access(_request: Request) -> dict[str, bool]:
        return {"token_needed": access.token_needed}

    async def status(request: Request) -> dict[str, Any]:
        every = request.query_params.get("partitions") == "all"
        return await source.status(every_partition=every)

    async def letters(_request: Request) -> dict[str, Any]:
        return await source.letters()

    async def explanation(request: Request) -> dict[str, Any]:
        agent = request.query_params.get("agent")
        job = _id("job", request.path_params["job"])
        return await source.explanation(job, None if agent is None else _id("agent", agent))

    data = {"status": status, "dead-letters": letters, "jobs/{job}": explanation}
    app = Starlette(
        routes=[
            *(Route(f"/{path}", _static(*held)) for path, held in STATIC.items()),
            Route("/access", _json(shell_access)),
            *(Route(f"/data/{path}", _json(_checked(access, of))) for path, of in data.items()),
        ],
        exception_handlers={404: _not_served, 405: _not_served},
    )
    app.router.redirect_slashes = False
    return [Route(PATH, _to_the_page), Mount(PATH, app)]


def _static(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("api.ops") / "static" / name).read_bytes()

    async def serve(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return serve


def _checked(access: Access, data: Data) -> Data:
    async def serve(request: Request) -> Any:
        access.check(request)
        return await data(request)

    return serve


def _json(data: Data) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        try:
            return _reply(200, await data(request))
        except AccessRefusedError as error:
            return _reply(error.status, {"message": error.reason})
        except Exception as error:
            # The error's text may hold a secret, so only its type is logged.
            log.error("the operators' page failed", error=type(error).__name__)  # noqa: TRY400
            return _reply(500, {"message": "internal error; the log of this process says more"})

    return serve


def _reply(status: int, body: object) -> Response:
    headers = dict(HEADERS)
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="operators"'
    if status in (429, 503):
        headers["retry-after"] = "60" if status == 429 else "1"
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def _id(name: str, text: str) -> int:
    """Parse an id; the error does not repeat the text, which may be a token typed by mistake."""
    if not _ID.fullmatch(text) or int(text) > MAX_ID:
        raise AccessRefusedError(400, f"the {name} is no id: give a number of digits alone")
    return int(text)


async def _to_the_page(_request: Request) -> Response:
    # Relative: a proxy may serve the page below a prefix.
    return RedirectResponse("ops/", 307, HEADERS)


async def _not_served(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _reply(status, {"message": "Not Found" if status == 404 else "Method Not Allowed"})
