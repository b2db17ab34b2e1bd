"""The rules for nginx and HAProxy in docs/gitlab.md, run as they are written there."""

import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from projector.ports import is_listening
from projector.store import schema
from tests.integration import proxies, servers
from tests.integration.deployment import PATH, Deployment
from tests.integration.ports import free_port
from tests.integration.servers import Server

EPOCH = 1
KNOWN, FINISHED = "token-of-a-live-job", "token-of-a-finished-job-".ljust(8192, "x")
BODY = b'{"allowed_agents":[]}'
UNAUTHORIZED = b'{"message":"401 Unauthorized"}'
SPELLINGS = [PATH, f"/{PATH}", f"{PATH}/", f"//{PATH}//", PATH.replace("job", "%6Aob")]
OTHERS = ["/", "/api/v4/job", f"{PATH}s", f"{PATH}/x", f"/x{PATH}", "/api/v4/internal/agents"]


class Behind:
    """An API, the stand-in for GitLab, and a client of the proxy before them."""

    def __init__(self, api: Server, client: httpx.Client, folder: Path) -> None:
        self.api = api
        self.client = client
        self._folder = folder

    def look_up(self, token: str, path: str = PATH, method: str = "GET") -> httpx.Response:
        """Send the token in a header."""
        return self.client.request(method, self._url(path), headers={"Job-Token": token})

    def look_up_by_query(self, token: str, path: str = PATH) -> httpx.Response:
        """Send the token in the query string."""
        return self.client.get(self._url(path), params={"job_token": token})

    def get(self, path: str) -> httpx.Response:
        return self.client.get(self._url(path))

    def _url(self, path: str) -> str:
        # Not by the client's `base_url`, which would join slashes.
        return f"{self.client.base_url}".rstrip("/") + path

    def tokens_in_logs(self) -> list[str]:
        """List the log files that hold a token."""
        logs = list(self._folder.glob("*.log"))
        assert len(logs) >= 2
        return [log.name for log in logs if "token-of-a" in log.read_text(errors="replace")]


def start_api(deployment: Deployment) -> Server:
    """Start an API with one live and one finished token, and a stamp that never changes."""
    redis = deployment.redis
    for token, status, body in ((KNOWN, 200, BODY), (FINISHED, 401, b"")):
        record = schema.ViewRecord(status, 0, schema.Version(EPOCH, 1), body)
        digest = hashlib.sha256(token.encode()).hexdigest()
        redis.set(schema.TOKENS + digest, record.encode())
    stamp = {"stamp": redis.time()[0] * 1000, "stamp_epoch": EPOCH}
    redis.hset(schema.partition_key(0), mapping=stamp)
    redis.set(schema.PARTITIONS_KEY, 1)
    api = deployment.start_api(PROJECTOR_MAX_STALENESS="300")
    servers.eventually(lambda: deployment.look_up(KNOWN).status == 200, "the live token")
    return api


@pytest.fixture(params=list(proxies.PROXIES))
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Behind]:
    proxies.program(request.param)
    port = free_port()
    with (
        servers.running(servers.valkey(tmp_path, port)),
        proxies.stand_in() as gitlab,
        Deployment("127.0.0.1:1", port, "proxies.", tmp_path) as deployment,
    ):
        servers.eventually(lambda: is_listening(port), "Valkey listening")
        api = start_api(deployment)
        address = deployment.api.removeprefix("http://")
        proxy = proxies.PROXIES[request.param](tmp_path, address, gitlab)
        url = f"http://127.0.0.1:{proxy.port}"
        with proxies.listening(proxy), httpx.Client(base_url=url, timeout=30) as client:
            yield Behind(api, client, tmp_path)


@pytest.mark.parametrize("name", proxies.PROXIES)
def test_the_proxy_has_nothing_to_say_against_its_rule(name: str, tmp_path: Path) -> None:
    done = proxies.check(proxies.PROXIES[name](tmp_path, "127.0.0.1:1", "127.0.0.1:2"))
    said = (done.stdout + done.stderr).lower()
    assert done.returncode == 0, said
    assert "warn" not in said
    assert "alert" not in said


def test_lookups_are_answered_by_the_api_and_all_else_by_gitlab(behind: Behind) -> None:
    for path in SPELLINGS:
        for answer in (behind.look_up(KNOWN, path), behind.look_up_by_query(KNOWN, path)):
            assert (answer.status_code, answer.content) == (200, BODY), path
    head, get = behind.look_up(KNOWN, method="HEAD"), behind.look_up(KNOWN)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(BODY)))
    assert (head.content, head.headers["view-version"]) == (b"", get.headers["view-version"])
    for answer in (behind.look_up(FINISHED), behind.look_up_by_query(FINISHED)):
        assert (answer.status_code, answer.content) == (401, UNAUTHORIZED)
    for path in OTHERS:
        assert behind.get(path).json() == {"gitlab": f"GET {path}"}
    assert behind.tokens_in_logs() == []


def test_an_api_that_hangs_is_a_504_after_three_seconds(behind: Behind) -> None:
    behind.api.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert behind.look_up(KNOWN).status_code == 504
        assert 2 < time.monotonic() - begun < 15
        # HAProxy's check may have failed by now.
        assert behind.look_up_by_query(KNOWN).status_code in (503, 504)
        assert behind.get("/other").status_code == 200
    finally:
        behind.api.signal(signal.SIGCONT)
    servers.eventually(lambda: behind.look_up(KNOWN).status_code == 200, "an answer again")
    assert behind.tokens_in_logs() == []


def test_an_api_that_is_down_is_refused_at_once_and_gitlab_is_not(behind: Behind) -> None:
    behind.api.stop()
    for answer in (behind.look_up(KNOWN), *(behind.look_up_by_query(KNOWN, p) for p in SPELLINGS)):
        assert answer.status_code in (502, 503)
    assert behind.get("/other").status_code == 200
    assert behind.tokens_in_logs() == []
