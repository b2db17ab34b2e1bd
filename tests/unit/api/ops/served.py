"""The operators' page over ASGI, in the API and by itself."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

import api.app
import api.metrics
import api.ops.app
from projector.config.settings import Settings
from tests.unit.api.api_world import running

TOKEN = "an-operators-token-of-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
DATA = ("status", "dead-letters", "jobs/9")
NOBODY_THERE = "127.0.0.1:1"
LOOPBACK = "http://127.0.0.1"


@contextlib.asynccontextmanager
async def served(
    app: ASGIApp, client: tuple[str, int] = ("203.0.113.7", 1), url: str = "http://t"
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=client)
    async with running(app), httpx.AsyncClient(transport=transport, base_url=url) as http:
        yield http


@contextlib.asynccontextmanager
async def public(
    monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """`projector api`."""
    if token:
        monkeypatch.setenv("PROJECTOR_OPS_TOKEN", token)
    async with served(api.app.create_api(), **more) as http:
        yield http


@contextlib.asynccontextmanager
async def own(url: str = LOOPBACK) -> AsyncIterator[httpx.AsyncClient]:
    """`projector ops`."""
    async with served(api.ops.app.create_ops(Settings.load()), url=url) as http:
        yield http
