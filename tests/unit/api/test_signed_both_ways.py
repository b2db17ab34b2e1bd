"""The same signed tokens to both ways to a lookup, directly and by ASGI."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from api.tokens.job_token_keys import KeyFiles
from api.tokens.signed_tokens import SignedTokens
from projector.store import schema
from tests.builders import digest
from tests.job_tokens import ISSUER, JOB, NOW_S, signing_key
from tests.unit.api.test_both_ways import BothWays, World, statuses
from tests.unit.api.test_lookup_protocol import get

KEY = signing_key(0)
OWN = KEY.token(20)


class SignedWorld(World):
    """Jobs 200, 403 and 503 with the record of this status, and job 10, whose key names a token."""

    def __init__(self) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            (file := Path(folder) / "key.pem").write_bytes(KEY.pem)
            files = KeyFiles([file])
        self.lookup._signed = SignedTokens(files, ISSUER, "acme-", lambda _: NOW_S * 1000.0)
        for status in (200, 403, 503):
            self.records[schema.job_key(status)] = self.record(status)
        self.records[schema.job_key(401)] = self.record(401)
        self.records[schema.job_key(10)] = digest("token-403").encode()
        self.records[schema.TOKENS + (digest(OWN))] = self.record(403)
        self.records[schema.job_key(20)] = self.record(200)
        self.records[schema.job_key(30)] = b"garbage"

    def record(self, status: int) -> bytes:
        return self.records[schema.TOKENS + (digest(f"token-{status}"))]


class SignedBothWays(BothWays):
    """Signed tokens behind two ports."""

    def new_world(self) -> World:
        return SignedWorld()


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop])
def both(request: pytest.FixtureRequest) -> Iterator[BothWays]:
    with SignedBothWays(request.param) as both:
        yield both


TOKENS: dict[str, tuple[Callable[[], str], int]] = {
    "live": (lambda: KEY.token(200), 200),
    "with the instance's prefix": (lambda: "acme-" + KEY.token(200), 200),
    "blocked": (lambda: KEY.token(403), 403),
    "not known yet": (lambda: KEY.token(503), 503),
    "finished": (lambda: KEY.token(401), 401),
    "behind a pointer": (lambda: KEY.token(10), 403),
    "with a record of its own": (lambda: OWN, 403),
    "unreadable": (lambda: KEY.token(30), 503),
    "without a record": (lambda: KEY.token(JOB), 503),
    "forged": (lambda: signing_key(1).token(200, kid=KEY.kid), 401),
    "of an unknown key": (lambda: signing_key(1).token(200), 503),
    "expired": (lambda: KEY.token(200, exp=NOW_S), 401),
    "not yet valid": (lambda: KEY.token(200, nbf=NOW_S + 3600), 401),
    "for another audience": (lambda: KEY.token(200, aud="x"), 401),
    "of another issuer": (lambda: KEY.token(200, iss="x"), 401),
    "of no job": (lambda: KEY.token(200, sub="x"), 401),
    "malformed": (lambda: "glcbt-a.b.c", 401),
    "8 KiB": (lambda: "glcbt-" + "a" * 8100 + ".b.c", 401),
    "looked up by digest": (lambda: "token-200", 200),
}


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("form", ["Job-Token: {}", "Authorization: Bearer {}"])
def test_each_signed_token_is_answered_alike(both: BothWays, name: str, form: str) -> None:
    token, status = TOKENS[name]
    sent = get("", form.format(token())).replace(b"Job-Token: \r\n", b"")
    # The second time a verified token is known.
    by_asgi, directly = both.answers(sent * 2)
    assert by_asgi == directly
    assert statuses(directly) == [status] * 2
