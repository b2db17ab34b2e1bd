"""Who may read the operators' data: by token, or from loopback."""

import logging
import time

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from typer.testing import CliRunner

import api.app
import api.metrics
import api.ops.app
from api.ops import auth
from projector.cli.main import app as cli
from projector.cli.terminal import WRONG
from tests.unit.api.api_world import running
from tests.unit.api.ops.served import BEARER, DATA, TOKEN, own, public

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
    totals = reply.json()["totals"]
    assert (totals["fresh"], totals["unclaimed"]) == (1, 1)


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


def test_an_ipv4_client_of_a_dual_stack_socket_is_limited_by_its_own_address() -> None:
    assert auth._network("::ffff:192.0.2.7") == "192.0.2.7"
    assert auth._network("2001:db8::7") == auth._network("2001:db8::8")
