"""The operators' page over ASGI: who gets in, what they get, and what nobody ever gets."""

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from starlette.types import ASGIApp
from typer.testing import CliRunner

import api.app
import api.metrics
import api.ops.app
from api.lookup import PATH
from api.ops import auth
from api.ops import data as page_data
from api.ops import routes as page
from api.ops.routes import HEADERS, STATIC
from projector import errors
from projector.cli.main import app as cli
from projector.cli.terminal import WRONG
from projector.config.settings import Settings
from projector.operators import explain, status
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.unit.api.api_world import CONNECTING, record_commands, running

TOKEN = "an-operators-token-of-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
DATA = ("status", "dead-letters", "jobs/9")
NOBODY_THERE = "127.0.0.1:1"
LOOPBACK = "http://127.0.0.1"


@pytest.fixture
async def redis(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAsyncRedis]:
    """What the applications read; each event loop has a client of its own."""
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROJECTOR_KAFKA", NOBODY_THERE)
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    server = FakeServer()
    monkeypatch.setattr(
        "projector.clients.redis_client.create_redis", lambda *_: FakeAsyncRedis(server=server)
    )
    redis = FakeAsyncRedis(server=server)
    await redis.set(schema.PARTITIONS_KEY, 2)
    now = round(time.time() * 1000)
    fields: dict[str, Any] = {
        "epoch": 7, "owner": "host-1", "revision": 3, "facts": 0, "stamp_epoch": 7, "stamp": now,
    }  # fmt: skip
    await redis.hset(schema.partition_key(0), mapping=cast(Any, fields))
    yield redis
    await redis.aclose()


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


# who gets in


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Job-Token": TOKEN},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_no_data_without_the_token(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, data: str, headers: dict[str, str]
) -> None:
    async with public(monkeypatch) as http:
        reply = await http.get(f"/ops/data/{data}", headers=headers, params={"token": TOKEN})
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert set(reply.json()) == {"message"}


async def test_the_token_opens_the_data(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with public(monkeypatch) as http:
        reply = await http.get("/ops/data/status", headers=BEARER)
    assert reply.status_code == 200
    assert [p["state"] for p in reply.json()["partitions"]] == ["fresh", "unclaimed"]


async def test_nobody_may_try_many_tokens(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"Authorization": "Bearer wrong-token-of-some-length"}
    async with public(monkeypatch) as http:
        tries = [(await http.get("/ops/data/status", headers=wrong)) for _ in range(12)]
        right = await http.get("/ops/data/status", headers=BEARER)
    assert [reply.status_code for reply in tries] == [401] * auth.MAX_FAILURES + [429] * 2
    assert (right.status_code, right.headers["retry-after"]) == (429, "60")


async def test_only_wrong_tokens_count_as_tries_and_only_against_their_network(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECTOR_OPS_TOKEN", TOKEN)
    app = api.app.create_api()
    wrong = {"Authorization": "Bearer wrong-token-of-some-length"}

    async def asked(client: str, headers: dict[str, str]) -> int:
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            return (await http.get("/ops/data/status", headers=headers)).status_code

    async with running(app):
        for _ in range(20):
            assert await asked("2001:db8::1", {}) == 401
        for number in range(auth.MAX_FAILURES):
            assert await asked(f"2001:db8::{number}", wrong) == 401
        assert await asked("2001:db8::abcd", BEARER) == 429
        assert await asked("2001:db8:0:1::1", BEARER) == 200


def test_tries_are_forgotten_after_a_minute_and_never_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = auth.Failures()
    for _ in range(auth.MAX_FAILURES):
        failures.add("one")
    assert failures.are_too_many("one")
    later = time.monotonic() + auth.WINDOW_S
    monkeypatch.setattr("api.ops.auth.time.monotonic", lambda: later)
    assert not failures.are_too_many("one")
    for number in range(3 * auth.MAX_CLIENTS):
        failures.add(str(number))
    assert len(failures._failures) == auth.MAX_CLIENTS


async def test_a_wrong_token_is_logged_without_itself(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    secret = "nearly-the-operators-token"
    async with public(monkeypatch) as http:
        await http.get("/ops/data/status", headers={"Authorization": f"Bearer {secret}"})
        await http.get("/ops/data/status", headers=BEARER)
        await http.get(f"/ops/data/jobs/{secret}", headers=BEARER)
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("httpx")]
    said = "".join(ours) + "".join(capsys.readouterr())
    assert "a wrong token for the operators' page" in said
    assert "203.0.113.7" in said
    assert secret not in said
    assert TOKEN not in said


# the own address


async def test_on_this_machine_no_token_is_needed(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        assert (await http.get("/ops/access")).json() == {"token_needed": False}
        assert (await http.get("/ops/data/status")).status_code == 200
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.get("/api/v4/job/allowed_agents")).status_code == 404


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://192.0.2.1", {}),
        ("http://192.0.2.1", {"Host": "localhost"}),
        ("http://127.0.0.1", {"Host": "rebound.example"}),
        ("http://127.0.0.1", {"Host": "127.0.0.1.rebound.example"}),
        ("http://127.0.0.1", {"Sec-Fetch-Site": "cross-site"}),
        ("http://127.0.0.1", {"Sec-Fetch-Site": "same-site"}),
        ("http://127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}),
        ("http://127.0.0.1", {"Via": "1.1 proxy"}),
    ],
)
async def test_without_a_token_neither_other_machines_nor_other_sites_get_in(
    redis: FakeAsyncRedis, url: str, headers: dict[str, str]
) -> None:
    async with own(url) as http:
        for data in DATA:
            reply = await http.get(f"/ops/data/{data}", headers=headers)
            assert reply.status_code == 403


async def test_the_own_address_asks_for_the_token_where_one_is_set(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECTOR_OPS_TOKEN", TOKEN)
    async with own("http://192.0.2.1") as http:
        assert (await http.get("/ops/data/status")).status_code == 401
        assert (await http.get("/ops/data/status", headers=BEARER)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "nowhere.invalid"])
def test_without_a_token_the_command_refuses_an_address_that_others_reach(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    done = CliRunner().invoke(cli, ["ops", "--host", host, "--port", "0"])
    assert done.exit_code == WRONG
    assert "PROJECTOR_OPS_TOKEN" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses_are_this_machine_s(host: str) -> None:
    assert auth.is_loopback(host)


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


async def test_the_page_sends_redis_nothing_but_reads(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    record_commands(monkeypatch, commands)
    await redis.set(schema.job_token_key(9), "0" * 64)
    commands.clear()
    async with own() as http:
        for data in DATA:
            await http.get(f"/ops/data/{data}")
    assert set(commands) - CONNECTING == {"GET", "HGETALL", "TIME", "PTTL", "HSCAN"}


def test_the_page_needs_nobody_else_and_says_nothing_as_markup() -> None:
    folder = Path(auth.__file__).parent / "static"
    for name in ("index.html", "page.css", "page.js"):
        text = (folder / name).read_text()
        assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    page = (folder / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    # Without its script the form must not send what was typed into it as a query.
    assert not re.search(r"<input[^>]*\sname=", page)


# what the data says


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


async def test_an_unknown_job_is_said_to_be_unknown(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        reply = await http.get("/ops/data/jobs/9")
    assert reply.status_code == 404
    assert "job 9 is not known" in reply.json()["message"]


async def test_facts_beyond_the_bound_are_left_to_the_command(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MOST_FACTS", 1)
    await redis.hset(schema.partition_key(0), "facts", "2")
    async with own() as http:
        reply = await http.get("/ops/data/jobs/9")
    assert reply.status_code == 422
    assert "projector explain" in reply.json()["message"]


async def test_one_explanation_at_a_time_and_few_may_wait(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_now, most = 0, 0
    go = asyncio.Event()

    class Slow:
        """Takes the place of the computation."""

        def __init__(self, *_: object) -> None: ...

        async def explanation(self, job: int, agent: int | None) -> dict[str, Any]:
            nonlocal running_now, most
            running_now, most = running_now + 1, max(most, running_now + 1)
            while not go.is_set():  # noqa: ASYNC110  of another loop
                await asyncio.sleep(0.001)
            running_now -= 1
            return {"job": job}

        async def close(self) -> None: ...

    monkeypatch.setattr(page_data, "_Reader", Slow)
    asked = page_data.MAX_WAITING + 2
    async with own() as http:
        asking = [asyncio.create_task(http.get(f"/ops/data/jobs/{n}")) for n in range(1, asked + 1)]
        refused = [await task for task in asking[-2:]]
        go.set()
        answered = [await task for task in asking[:-2]]
    assert [reply.status_code for reply in refused] == [503, 503]
    assert [reply.json()["job"] for reply in answered] == list(range(1, page_data.MAX_WAITING + 1))
    assert most == 1


async def test_however_many_look_redis_is_read_once(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "STATUS_KEPT_S", 60.0)
    reads = 0
    read = status.read_status

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    monkeypatch.setattr(status, "read_status", counted)
    async with own() as http:
        replies = await asyncio.gather(*(http.get("/ops/data/status") for _ in range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert reads == 1


async def test_of_very_many_partitions_the_worst_are_shown(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MAX_SHOWN", 1)
    async with own() as http:
        found = (await http.get("/ops/data/status")).json()
    assert [row["partition"] for row in found["partitions"]] == [1]
    assert found["totals"]["partitions"] == 2


async def test_the_api_s_lookups_are_counted_by_status(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with public(monkeypatch) as http:
        before = (await http.get("/ops/data/status", headers=BEARER)).json()["lookups"]
        expected = before | {"401": before["401"] + 3}
        for _ in range(3):
            assert (await http.get(PATH)).status_code == 401
        patience = time.monotonic() + 5
        after = before
        while after != expected and time.monotonic() < patience:
            await asyncio.sleep(0.05)
            after = (await http.get("/ops/data/status", headers=BEARER)).json()["lookups"]
    assert after == expected
    async with own() as http:
        assert (await http.get("/ops/data/status", headers=BEARER)).json()["lookups"] is None


async def test_kafka_that_is_not_there_is_said_and_holds_nothing_up(redis: FakeAsyncRedis) -> None:
    async with own() as http:
        found = (await http.get("/ops/data/dead-letters")).json()
        other = await http.get("/ops/data/status")
    assert "cannot be reached from here" in found["error"]
    assert NOBODY_THERE in found["error"]
    assert other.status_code == 200
    assert "Kafka" in other.json()["kafka"]


async def test_dead_letters_are_kept_and_not_asked_for_again(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    async def counted(_settings: Settings) -> dict[str, Any]:
        nonlocal reads
        reads += 1
        return {"letters": []}

    monkeypatch.setattr(page_data, "read_letters", counted)
    async with own() as http:
        for _ in range(5):
            assert (await http.get("/ops/data/dead-letters")).json() == {"letters": []}
    assert reads == 1


async def test_redis_that_is_not_there_is_said(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.connection_pool.connection_kwargs["server"].connected = False
    async with own() as http:
        reply = await http.get("/ops/data/status")
    assert reply.status_code == 503
    assert "Redis at redis://127.0.0.1:6379/0 cannot be reached" in reply.json()["message"]


async def test_lookups_are_answered_while_an_explanation_is_computed(
    redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What blocks the page's own event loop does not block the lookups'."""
    blocked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def blocking(*_: object, **__: object) -> None:
        loop.call_soon_threadsafe(blocked.set)
        time.sleep(1.0)  # noqa: ASYNC251  what it is about
        raise errors.UnknownJobError("done")

    monkeypatch.setattr(explain, "explain_job", blocking)
    key = schema.token_record_key(hashlib.sha256(b"job-token").hexdigest())
    await redis.set(key, ViewRecord(200, 0, Version(7, 2), b"{}").encode())
    async with public(monkeypatch) as http:
        explaining = asyncio.create_task(http.get("/ops/data/jobs/9", headers=BEARER))
        await blocked.wait()
        for _ in range(20):
            reply = await http.get(PATH, headers={"Job-Token": "job-token"})
            assert reply.status_code in (200, 503)
        assert not explaining.done()
        assert (await explaining).status_code == 404


def test_an_ipv4_client_of_a_dual_stack_socket_is_limited_by_its_own_address() -> None:
    assert auth._network("::ffff:192.0.2.7") == "192.0.2.7"
    assert auth._network("2001:db8::7") == auth._network("2001:db8::8")


def test_a_number_of_any_size_in_an_entry_is_shown() -> None:
    assert page._reply(200, {"a": 10**30}).body == b'{"a":1' + 30 * b"0" + b"}"
