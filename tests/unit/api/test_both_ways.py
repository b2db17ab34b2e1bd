"""The same bytes to both ways to a lookup, directly and by ASGI, on both event loops."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from api.http_semantics import HttpSemantics
from api.lookup import PATH
from tests.unit.api.test_lookup_protocol import BODIES, UvicornWorld, get, serving

PATIENCE_S = 10.0
# As `projector api` sets them.
AS_SERVED: dict[str, Any] = {"ws": "none", "log_level": "error"}
CHUNKED = "Transfer-Encoding: chunked"


class World(UvicornWorld):
    """The lookup as the API serves it, HEAD and refusals included."""

    def __init__(self) -> None:
        super().__init__()
        # These tests may take longer than the views are fresh there.
        self.lookup._max_staleness = 3600

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await HttpSemantics(super().app)(scope, receive, send)


class BothWays(threading.Thread):
    """One lookup behind two ports."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        super().__init__(daemon=True)
        self._new_loop = new_loop
        self._ready = threading.Event()
        self.ports: Sequence[int] = ()

    def new_world(self) -> World:
        """The lookup; other tests have another one."""
        return World()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        world = self.new_world()
        async with (
            serving(world, plainly=True, **AS_SERVED) as one,
            serving(world, **AS_SERVED) as two,
        ):
            self.ports = one.port, two.port
            self._ready.set()
            await self._over.wait()

    def __enter__(self) -> "BothWays":
        self.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(PATIENCE_S)

    def answers(self, *parts: bytes) -> list[bytes]:
        """What each way sends back, until it closes; without the times in it."""
        return [re.sub(rb"(date|age): [^\r]+", rb"\1: x", all_of(p, parts)) for p in self.ports]


def all_of(port: int, parts: Sequence[bytes]) -> bytes:
    """Send everything, then the end; return all that comes back until the server closes."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The server may have closed after a part.
        with contextlib.suppress(OSError):
            for number, part in enumerate(parts):
                time.sleep(0.001 if number else 0)
                client.sendall(part)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                came += data
    return came


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop])
def both(request: pytest.FixtureRequest) -> Iterator[BothWays]:
    with BothWays(request.param) as both:
        yield both


def statuses(came: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", came)]


GOOD = get("token-200")
NAMELESS = b"GET %b HTTP/1.1\r\n\r\n" % PATH.encode()
MANY = get("token-403", *[f"X-{n}: y" for n in range(2000)])
TABLE: dict[str, tuple[bytes, list[int]]] = {
    "a lookup": (GOOD, [200]),
    "lower-case names": (GOOD.replace(b"Job-Token", b"job-token"), [200]),
    "upper-case names": (GOOD.replace(b"Job-Token", b"JOB-TOKEN"), [200]),
    "blanks around a value": (GOOD.replace(b": token-200", b":  \t token-200 \t "), [200]),
    "no blank before a value": (GOOD.replace(b": ", b":"), [200]),
    "an empty value": (get("token-200", "X-Empty:"), [200]),
    "no headers": (NAMELESS, [401]),
    "two tokens": (get("token-403", "Job-Token: token-200"), [403]),
    "many headers": (MANY, [403]),
    "a long header": (get("token-200", "Cookie: " + "x" * 60_000), [200]),
    "empty lines before": (b"\r\n\r\n\r\n" + GOOD + b"\r\n" + GOOD, [200, 200]),
    "a folded header": (get("token-200", "X-Folded: a\r\n b"), [400]),
    "a blank before the colon": (get("token-200", "X : a"), [400]),
    "line feeds alone": (GOOD.replace(b"\r\n", b"\n"), [400]),
    "a NUL": (get("token-200", "X: \0"), [400]),
    "another method": (GOOD.replace(b"GET", b"POST"), [404]),
    "options": (GOOD.replace(b"GET", b"OPTIONS"), [404]),
    "options of the server": (get("", target="*").replace(b"GET", b"OPTIONS"), [404]),
    "no method": (GOOD.replace(b"GET", b"get"), [400]),
    "another version": (get("token-200", version="2.0"), [200]),
    "HTTP/1.0": (get("token-200", version="1.0") + GOOD, [200]),
    "HTTP/1.0, kept": (get("token-200", "Connection: keep-alive", version="1.0") + GOOD, [200]),
    "closed": (get("token-200", "Connection: close") + GOOD, [200]),
    "closed, with more": (get("token-200", "Connection: x, Close") + GOOD, [200]),
    "kept": (get("token-200", "Connection: keep-alive") + GOOD, [200, 200]),
    "a proxy's header": (get("token-200", "Proxy-Connection: close") + GOOD, [200]),
    "absolute": (get("token-200", target=f"http://x{PATH}"), [200]),
    "absolute, with a query": (get("", target=f"http://x{PATH}?job_token=token-403"), [403]),
    "a query": (get("", target=f"{PATH}?job_token=token-403"), [403]),
    "an empty query": (get("token-403", target=f"{PATH}?"), [403]),
    "an encoded query": (get("", target=f"{PATH}?job%5Ftoken=%74oken-403"), [403]),
    "a plus": (get("", target=f"{PATH}?job_token=token+403"), [401]),
    "two in a query": (get("", target=f"{PATH}?job_token=x&job_token=token-403"), [403]),
    "a fragment": (get("", target=f"{PATH}?job_token=token-403#x"), [403]),
    "an encoded path": (get("token-403", target=PATH.replace("j", "%6A")), [403]),
    "further slashes": (get("token-403", target=f"/{PATH}/"), [403]),
    "a letter of Latin 1": (GOOD.replace(b" HTTP", b"?\xe9 HTTP"), [400]),
    "head": (GOOD.replace(b"GET", b"HEAD") + GOOD, [200, 200]),
    "a body": (get("token-403", "Content-Length: 4") + b"body" + GOOD, [403, 200]),
    "an empty body": (get("token-403", "Content-Length: 0") + GOOD, [403, 200]),
    "a large body": (get("token-403", "Content-Length: 70000") + b"x" * 70_000 + GOOD, [403, 200]),
    "chunks": (get("token-403", CHUNKED) + b"4\r\nbody\r\n0\r\nA: b\r\n\r\n" + GOOD, [403, 200]),
    "length and chunks": (get("token-403", CHUNKED, "Content-Length: 4") + b"body", [400]),
    "two lengths": (get("token-403", "Content-Length: 4", "Content-Length: 5") + b"body", [400]),
    "continue": (get("token-403", "Content-Length: 4", "Expect: 100-continue") + b"body", [403]),
    "upgrade": (get("token-403", "Connection: upgrade", "Upgrade: websocket") + GOOD, [403, 200]),
    "h2c": (get("token-403", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"), [403]),
    "many": (GOOD * 1000, [200] * 1000),
    "no HTTP behind": (GOOD + MANY + b"hello\r\n\r\n" + GOOD, [200, 403, 400]),
    "cut": (GOOD + MANY[:-1], [200]),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_kind_of_request_is_answered_alike(both: BothWays, name: str) -> None:
    sent, wanted = TABLE[name]
    by_asgi, directly = both.answers(sent)
    assert by_asgi == directly
    assert statuses(directly) == wanted


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_nor_does_it_matter_in_which_parts_requests_come(both: BothWays, size: int) -> None:
    """The ends of requests and bodies fall anywhere."""
    names = ("empty lines before", "a body", "chunks", "upgrade", "further slashes")
    sent = b"".join(TABLE[name][0] for name in names)
    whole, _ = both.answers(sent)
    parts = [sent[at : at + size] for at in range(0, len(sent), size)]
    assert both.answers(*parts) == [whole, whole]


TOKENS = st.sampled_from([*(f"token-{status}" for status in BODIES), "unknown", "not good", ""])
HEADERS = st.sampled_from(
    [
        "Authorization: Bearer token-403", "authorization:bearer", "JOB-TOKEN: token-200",
        "Cache-Control: max-age=5000", "cache-control: no-store", "Cache-Control: MAX-AGE=7000",
        "Connection: close", "Connection: keep-alive", "Connection: Keep-Alive, X", "TE: trailers",
        "Expect: 100-continue", "Expect: x", "Content-Length: 0", "Upgrade: h2c",
        "Connection: upgrade", "Accept-Encoding: gzip", "Range: bytes=0-1", "If-None-Match: *",
        "Cookie: " + "x" * 5000, "X-Forwarded-For: 10.0.0.1", "X-Odd: \xe9", "X Bad: y",
        "X: a\r\n b",
    ]
)  # fmt: skip
TARGETS = st.sampled_from(
    [
        PATH, PATH, PATH, f"{PATH}?", f"{PATH}?job_token=token-403", f"{PATH}?job_token=%74oken",
        f"{PATH}?a&job_token=", f"{PATH}?x#y", f"{PATH}#x", f"http://x{PATH}", f"/{PATH}",
        f"{PATH}/",
        PATH.replace("o", "%6f"), "/", "/other", f"{PATH}x", "*", f"{PATH}?\x7f", f"{PATH}?a?b",
    ]
)  # fmt: skip
METHODS = st.sampled_from([b"GET"] * 6 + [b"HEAD", b"POST", b"OPTIONS", b"get"])
BODIES_SENT = st.sampled_from(
    [([], b"")] * 6
    + [
        (["Content-Length: 6"], b"\r\n\r\n12"),
        ([CHUNKED], b"6\r\n\r\n\r\n12\r\n0\r\n\r\n"),
        ([CHUNKED], b"0\r\nTrailer: x\r\n\r\n"),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    headers = draw(st.lists(HEADERS, max_size=3))
    more, body = draw(BODIES_SENT)
    version = draw(st.sampled_from(["1.1"] * 8 + ["1.0", "2.0"]))
    request = get(draw(TOKENS), *headers, *more, target=draw(TARGETS), version=version)
    return draw(st.sampled_from([b"", b"", b"\r\n"])) + draw(METHODS) + request[3:] + body


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_requests_in_any_parts_are_answered_alike(both: BothWays, data: st.DataObject) -> None:
    sent = b"".join(data.draw(st.lists(requests(), min_size=1, max_size=4)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    edges = [0, *cuts, len(sent)]
    parts = [sent[begin:end] for begin, end in pairwise(edges) if begin < end]
    by_asgi, directly = both.answers(*parts)
    assert by_asgi == directly
