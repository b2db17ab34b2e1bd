"""HEAD, Allow and Cache-Control of every path."""

import httpx
import pytest

from api.lookup import PATH
from tests.unit.api.api_world import BODY, TOKEN, ApiWorld

PATHS = (
    PATH, f"{PATH}?job_token={TOKEN}", "/health/live", "/health/ready", "/docs", "/openapi.json",
    "/nothing", "/ops/",
)  # fmt: skip


def without_times(reply: httpx.Response) -> dict[str, str]:
    return {name: text for name, text in reply.headers.items() if name != "age"}


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_answered_like_get(api_world: ApiWorld, path: str) -> None:
    await api_world.ready(200)
    get, head = await api_world.http.get(path), await api_world.http.head(path)
    assert (head.status_code, without_times(head)) == (get.status_code, without_times(get))
    assert head.content == b""


async def test_head_has_the_length_of_the_body_that_get_has(api_world: ApiWorld) -> None:
    await api_world.ready(200)
    head = await api_world.http.head(PATH, headers={"Job-Token": TOKEN})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(BODY)))
    assert head.headers["view-version"] == "1.7.2"


@pytest.mark.parametrize("path", [*PATHS, "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_no_cache_keeps_any_answer(api_world: ApiWorld, path: str, method: str) -> None:
    reply = await api_world.http.request(method, path)
    assert reply.headers.get_list("cache-control") == ["no-store"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_405_says_which_methods_there_are(api_world: ApiWorld, method: str) -> None:
    for path in (PATH, f"/{PATH}", "/health/live", "/metrics"):
        reply = await api_world.http.request(method, f"http://t{path}")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD"), path
