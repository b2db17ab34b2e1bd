"""The operators' page over ASGI: what is served, with which headers, and that it only reads."""

import re
from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis

from api.ops import auth
from api.ops import routes as page
from api.ops.routes import HEADERS, STATIC
from projector.store import schema
from tests.unit.api.api_world import CONNECTING, record_commands
from tests.unit.api.ops.served import BEARER, DATA, TOKEN, own, public

# whether it is there at all


async def test_without_a_setting_the_page_is_as_unknown_as_any_path(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with public(monkeypatch, token=None) as http:
        unknown = await http.get("/nothing-here")
        paths = ["/ops", "/ops/", "/ops/page.js", "/ops/access", *(f"/ops/data/{d}" for d in DATA)]
        for path in paths:
            reply = await http.get(path, headers=BEARER)
            assert (reply.status_code, reply.content) == (404, unknown.content)


async def test_the_shell_holds_no_data_and_asks_for_the_token(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with public(monkeypatch) as http:
        assert (await http.get("/ops")).headers["location"] == "ops/"
        for path, (_, media_type) in STATIC.items():
            reply = await http.get(f"/ops/{path}")
            assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
            assert TOKEN not in reply.text
        assert (await http.get("/ops/access")).json() == {"token_needed": True}


async def test_the_page_is_not_in_the_api_s_document(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with public(monkeypatch) as http:
        assert not any("ops" in path for path in (await http.get("/openapi.json")).json()["paths"])


# what every answer carries


async def test_every_answer_has_the_headers_that_keep_it_to_its_reader(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with public(monkeypatch) as http:
        assert dict((await http.get("/ops")).headers).items() >= HEADERS.items()
        for path in ["/ops/", "/ops/page.js", "/ops/access", "/ops/nothing",
                     "/ops/data/status", "/ops/data/jobs/x", "/ops/data/jobs/9"]:  # fmt: skip
            for method, headers in (("GET", BEARER), ("GET", {}), ("POST", BEARER)):
                reply = await http.request(method, path, headers=headers)
                assert dict(reply.headers).items() >= HEADERS.items(), (method, path)
                assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_the_page_only_reads(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with public(monkeypatch) as http:
        for path in ("/ops/", "/ops/access", *(f"/ops/data/{data}" for data in DATA)):
            assert (await http.request(method, path, headers=BEARER)).status_code == 405


async def test_by_itself_the_page_keeps_to_http_as_the_api_does(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        for path in ("/health/live", "/nothing", "/ops/", "/ops/access", "/ops/nothing"):
            get, head = await http.get(path), await http.head(path)
            assert (head.status_code, dict(head.headers)) == (get.status_code, dict(get.headers))
            assert get.headers.get_list("cache-control") == ["no-store"]
        for path in ("/health/live", "/ops/", "/ops/access"):
            reply = await http.post(path)
            assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD"), path
            assert reply.headers.get_list("cache-control") == ["no-store"]


async def test_the_page_sends_redis_nothing_but_reads(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    record_commands(monkeypatch, commands)
    await redis.set(schema.job_key(9), "0" * 64)
    commands.clear()
    async with own() as http:
        for data in DATA:
            await http.get(f"/ops/data/{data}")
    reads = {"GET", "HMGET", "HGETALL", "HLEN", "TIME", "PTTL", "HSCAN"}
    assert set(commands) - CONNECTING == reads


def test_the_page_needs_nobody_else_and_says_nothing_as_markup() -> None:
    folder = Path(auth.__file__).parent / "static"
    for name, _ in STATIC.values():
        text = (folder / name).read_text()
        assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    page = (folder / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    # Without its script the form must not send what was typed into it as a query.
    assert not re.search(r"<input[^>]*\sname=", page)


def test_every_file_of_the_page_is_served_and_imported() -> None:
    folder = Path(auth.__file__).parent / "static"
    served = {name for name, _ in STATIC.values()}
    assert served == {path.name for path in folder.iterdir()}
    text = "".join((folder / name).read_text() for name in served)
    linked = set(re.findall(r"""(?:from "\./|href="|src=")([a-z]+\.[a-z]+)""", text))
    assert linked == served - {"index.html"}


@pytest.mark.parametrize(
    "job", ["x", "0", "-1", "9x", "1e3", "٩", "9223372036854775808", "glcbt-1"]
)
async def test_an_id_is_digits_alone_and_what_is_none_is_not_repeated(
    redis: FakeAsyncRedis, job: str
) -> None:
    async with own() as http:
        for url in (f"/ops/data/jobs/{job}", f"/ops/data/jobs/9?agent={job}"):
            reply = await http.get(url)
            assert reply.status_code == 400
            assert job not in reply.json()["message"] or len(job) == 1


def test_a_number_of_any_size_in_an_entry_is_shown() -> None:
    assert page._reply(200, {"a": 10**30}).body == b'{"a":1' + 30 * b"0" + b"}"
