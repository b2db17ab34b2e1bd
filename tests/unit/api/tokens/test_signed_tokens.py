"""Signed tokens without Redis: which are taken for one, and what is accepted and refused."""

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from api import metrics
from api.tokens import refusal_log, signed_tokens
from api.tokens.job_token_keys import KeyFiles
from api.tokens.refusal_log import RefusalLog
from api.tokens.signed_tokens import (
    KnownToken,
    RefusedTokenError,
    SignedTokens,
    UnverifiableTokenError,
)
from tests.job_tokens import (
    ISSUER,
    JOB,
    NOW_S,
    VECTOR,
    SigningKey,
    claims_of,
    segment,
    signing_key,
)

ABSENT = "absent"
ONE, TWO, OTHER = signing_key(0), signing_key(1), signing_key(2)


class Verifying(NamedTuple):
    """A verifier with the keys `ONE` and `TWO`, whose time is set by tests."""

    signed: SignedTokens
    files: KeyFiles
    paths: list[Path]
    time: list[float | None]

    def find(self, token: str) -> KnownToken | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        raw, key = token.encode(), f"allowed-agents:token:{digest}"
        return self.signed.verify(raw, key, 0.0) if self.signed.jwt_of(raw) else None

    def job(self, token: str) -> str:
        found = self.find(token)
        assert found is not None
        return found.job_key

    def refusal(self, token: str) -> str:
        with pytest.raises(RefusedTokenError) as refused:
            self.find(token)
        return str(refused.value)

    def doubt(self, token: str) -> str:
        with pytest.raises(UnverifiableTokenError) as doubted:
            self.find(token)
        return doubted.value.result


def verifying(folder: Path, *keys: bytes, issuer: str = ISSUER, prefix: str = "") -> Verifying:
    paths = [folder / f"{number}.pem" for number, _ in enumerate(keys)]
    for path, pem in zip(paths, keys, strict=True):
        path.write_bytes(pem)
    time: list[float | None] = [NOW_S * 1000.0]
    files = KeyFiles(paths)
    signed = SignedTokens(files, issuer, prefix, lambda _: time[0], RefusalLog())
    return Verifying(signed, files, paths, time)


@pytest.fixture
def verifier(tmp_path: Path) -> Verifying:
    return verifying(tmp_path, ONE.pem, TWO.pem)


# forms


def test_a_token_of_gitlabs_own_libraries_names_its_job(tmp_path: Path) -> None:
    verifier = verifying(tmp_path, VECTOR["pem"].encode(), issuer=VECTOR["issuer"])
    verifier.time[0] = VECTOR["nbf"] * 1000.0
    assert list(verifier.files.keys) == [VECTOR["kid"]]
    assert hashlib.sha256(VECTOR["token"].encode()).hexdigest() == VECTOR["sha256"]
    found = verifier.find(VECTOR["token"])
    assert found == KnownToken(f"allowed-agents:job:{VECTOR['job']}", VECTOR["exp"] * 1000)


@pytest.mark.parametrize("key", [ONE, TWO], ids=["one", "two"])
def test_two_keys_of_a_rotation_both_pass(verifier: Verifying, key: SigningKey) -> None:
    assert verifier.job(key.token(77)) == "allowed-agents:job:77"


def test_two_files_may_hold_the_same_key(tmp_path: Path) -> None:
    verifier = verifying(tmp_path, ONE.pem, ONE.pem)
    assert list(verifier.files.keys) == [ONE.kid]
    assert verifier.job(ONE.token(77)) == "allowed-agents:job:77"


async def test_a_key_is_rotated_over_the_second_of_two_files(tmp_path: Path) -> None:
    verifier = verifying(tmp_path, ONE.pem, ONE.pem)
    assert verifier.doubt(TWO.token()) == "unknown key"
    verifier.paths[1].write_bytes(TWO.pem)
    await verifier.files.refresh()
    for key in (ONE, TWO):
        assert verifier.job(key.token(77)) == "allowed-agents:job:77"
    verifier.paths[0].write_bytes(TWO.pem)
    await verifier.files.refresh()
    assert verifier.job(TWO.token(77)) == "allowed-agents:job:77"
    assert verifier.doubt(ONE.token()) == "unknown key"


@pytest.mark.parametrize("prefix", ["", "acme-", "acme", "a.b"])
def test_the_instances_prefix_may_be_before_the_name(tmp_path: Path, prefix: str) -> None:
    verifier = verifying(tmp_path, ONE.pem, prefix=prefix)
    token = ONE.token()
    dash = "" if prefix.endswith("-") or not prefix else "-"
    for text in (token, prefix + token, prefix + dash + token):
        assert verifier.job(text) == f"allowed-agents:job:{JOB}"


@pytest.mark.parametrize(
    "prefix", ["acme", "acme-", "a.b.c", "glcbt-", "glcbt", "x.glcbt-y", "!~", "p" * 100 + "-"]
)
def test_without_a_prefix_in_the_settings_any_prefix_may_be_before_the_name(
    verifier: Verifying, prefix: str
) -> None:
    assert verifier.job(prefix + ONE.token()) == f"allowed-agents:job:{JOB}"
    assert verifier.refusal(prefix + flipped(ONE.token())) == "bad signature"
    assert verifier.doubt(prefix + OTHER.token()) == "unknown key"


@pytest.mark.parametrize("prefix", ["p" * 102, "a b", "\x7f", "a\n", "é"])
def test_a_text_that_can_be_no_prefix_is_looked_up_by_digest(
    verifier: Verifying, prefix: str
) -> None:
    assert verifier.find(prefix + ONE.token()) is None


@pytest.mark.parametrize("prefix", ["other", "acme--", "ACME", "acme-x"])
def test_with_a_prefix_in_the_settings_a_token_with_another_is_looked_up_by_digest(
    tmp_path: Path, prefix: str
) -> None:
    verifier = verifying(tmp_path, ONE.pem, prefix="acme")
    assert verifier.find(prefix + ONE.token()) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "glcbt-64_abcdefghijklmnopqrst",
        lambda _: "glcbt-a.b",
        lambda _: "glcbt-.b.c",
        lambda _: "glcbt-a..c",
        lambda _: "glcbt-a.b.c.d",
        lambda token: token.removeprefix("glcbt-"),
        lambda token: token.upper(),
        lambda token: token + "=",
        lambda token: token + "+",
        lambda token: token.replace("glcbt-", "glrt-"),
    ],
)
def test_a_text_that_is_no_signed_token_is_looked_up_by_digest(
    verifier: Verifying, change: Callable[[str], str]
) -> None:
    assert verifier.find(change(ONE.token())) is None


# signatures and keys


def tampered(token: str) -> str:
    head, _, signature = token.removeprefix("glcbt-").split(".")
    return f"glcbt-{head}.{segment(claims_of(JOB + 1))}.{signature}"


def flipped(token: str) -> str:
    """The token with one bit of its signature changed."""
    before, _, signature = token.rpartition(".")
    return f"{before}.{'B' if signature[0] != 'B' else 'C'}{signature[1:]}"


def hmac_signed(key: bytes) -> str:
    """HS256 with the public key as the secret."""
    text = f"{segment({'alg': 'HS256', 'kid': ONE.kid})}.{segment(claims_of())}"
    mac = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"glcbt-{text}.{segment(mac)}"


def unsigned(alg: object) -> str:
    return f"glcbt-{segment({'alg': alg, 'kid': ONE.kid})}.{segment(claims_of())}."


FORGED = {
    "signed by another key": (lambda: OTHER.token(kid=ONE.kid), "bad signature"),
    "signed by the other configured key": (lambda: TWO.token(kid=ONE.kid), "bad signature"),
    "other claims": (lambda: tampered(ONE.token()), "bad signature"),
    "another signature": (lambda: flipped(ONE.token()), "bad signature"),
    "no signature": (lambda: ONE.token().rpartition(".")[0] + ".", "bad signature"),
    "alg none": (lambda: unsigned("none"), "wrong algorithm"),
    "alg None": (lambda: unsigned("None"), "wrong algorithm"),
    "alg missing": (lambda: unsigned(None), "wrong algorithm"),
    "alg a list": (lambda: unsigned(["RS256"]), "wrong algorithm"),
    "HS256 with the public key": (lambda: hmac_signed(ONE.pem), "wrong algorithm"),
    "PS256 by the right key": (lambda: ONE.token(algorithm="PS256"), "wrong algorithm"),
    "RS512 by the right key": (lambda: ONE.token(algorithm="RS512"), "wrong algorithm"),
    "no kid": (lambda: ONE.token(kid=None), "no key id"),
    "a crit header": (lambda: ONE.token(headers={"crit": ["x"], "x": 1}), "malformed"),
    "a header that is no JSON": (lambda: "glcbt-abcd.efgh.ijkl", "malformed"),
    "a header of one character": (lambda: "glcbt-a.b.c", "malformed"),
    "a header that is a list": (lambda: f"glcbt-{segment([])}.e30.x", "malformed"),
    "an empty header": (lambda: f"glcbt-{segment({})}.e30.x", "wrong algorithm"),
}


@pytest.mark.parametrize(("token", "result"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_is_refused(
    verifier: Verifying, token: Callable[[], str], result: str
) -> None:
    assert verifier.refusal(token()) == result


def jwk(key: SigningKey) -> dict[str, str]:
    numbers = key.private.public_key().public_numbers()
    modulus = numbers.n.to_bytes(256, "big")
    return {"kty": "RSA", "e": "AQAB", "n": segment(modulus), "kid": ONE.kid}


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "b64"])
def test_no_other_header_leads_to_a_key(verifier: Verifying, name: str) -> None:
    value = {"jwk": jwk(OTHER), "x5c": ["MII"], "b64": True}.get(name, "https://evil.example/k")
    forged = OTHER.token(kid=ONE.kid, headers={name: value})
    assert verifier.refusal(forged) == "bad signature"


@pytest.mark.parametrize(
    "kid",
    ["x", "../../etc/passwd", OTHER.kid, ONE.kid + "A", ""],
    ids=["short", "a path", "another key", "one character more", "empty"],
)
def test_an_unknown_key_is_in_doubt_and_never_refused(verifier: Verifying, kid: str) -> None:
    token = "glcbt-" + segment({"alg": "RS256", "kid": kid}) + ".e30.c2ln"
    assert verifier.doubt(token) == "unknown key"


# claims

MALFORMED_SUBJECTS = [
    None, 9, "", "9", "gid://gitlab/Ci::Build/0", "gid://gitlab/Ci::Build/09",
    "gid://gitlab/Ci::Build/-9", "gid://gitlab/Ci::Build/9 ", "gid://gitlab/Ci::Build/9\n",
    "gid://gitlab/Ci::Build/9/9", "gid://gitlab/Ci::Build/", "gid://gitlab/Ci::Build/9?x=1",
    "gid://gitlab/Ci::Bridge/9", "gid://gitlab/User/9", "Gid://gitlab/Ci::Build/9",
    "xgid://gitlab/Ci::Build/9", f"gid://gitlab/Ci::Build/{2**63}",
    f"gid://gitlab/Ci::Build/1{'0' * 19}", "gid://gitlab/Ci::Build/\u0669",
    "gid://gitlab/Ci::Build/\uff19", ["gid://gitlab/Ci::Build/9"],
]  # fmt: skip


@pytest.mark.parametrize("subject", MALFORMED_SUBJECTS, ids=ascii)
def test_a_subject_of_another_form_is_refused(verifier: Verifying, subject: object) -> None:
    token = ONE.signed_bytes(json_of(claims_of() | {"sub": subject}))
    assert verifier.refusal(token) == "malformed subject"


@pytest.mark.parametrize("job", [1, 9, 10**18, 2**63 - 1])
def test_any_job_id_is_taken(verifier: Verifying, job: int) -> None:
    assert verifier.job(ONE.token(job)) == f"allowed-agents:job:{job}"


def json_of(value: object) -> bytes:
    return json.dumps(value).encode()


CLAIMS = [
    ("aud", "gitlab", "wrong audience"),
    ("aud", "gitlab-authz-token ", "wrong audience"),
    ("aud", ["gitlab-authz-token"], "wrong audience"),
    ("aud", None, "wrong audience"),
    ("iss", "https://gitlab.example.com", "wrong issuer"),
    ("iss", "gitlab.example.com.", "wrong issuer"),
    ("iss", "GITLAB.example.com", "wrong issuer"),
    ("iss", None, "wrong issuer"),
    ("exp", NOW_S, "expired"),
    ("exp", NOW_S - 1, "expired"),
    ("exp", 0, "expired"),
    ("exp", -1, "expired"),
    ("nbf", NOW_S + 61, "not yet valid"),
    ("exp", str(NOW_S + 60), "malformed claims"),
    ("exp", None, "malformed claims"),
    ("exp", True, "malformed claims"),
    ("exp", [], "malformed claims"),
    ("nbf", "x", "malformed claims"),
    *[(name, ABSENT, "malformed claims") for name in ("sub", "exp", "nbf", "iss", "aud")],
]


@pytest.mark.parametrize(("name", "value", "result"), CLAIMS, ids=repr)
def test_a_claim_that_is_wrong_is_refused(
    verifier: Verifying, name: str, value: object, result: str
) -> None:
    claims = claims_of() | {name: value}
    if value == ABSENT:
        del claims[name]
    assert verifier.refusal(ONE.signed_bytes(json_of(claims))) == result


@pytest.mark.parametrize(
    "payload",
    [
        b"x", b"[]", b'"x"', b"null", b"{" * 1000, b"\xff\xfe", b'{"exp": NaN}',
        b'{"sub":"","iss":"","aud":"","nbf":0,"exp":1e999}',
        b'{"sub":"","iss":"","aud":"","nbf":0,"exp":Infinity}',
    ],
    ids=ascii,
)  # fmt: skip
def test_a_payload_that_is_no_object_of_claims_is_refused(
    verifier: Verifying, payload: bytes
) -> None:
    assert verifier.refusal(ONE.signed_bytes(payload)) in ("malformed claims", "malformed")


@pytest.mark.parametrize(
    "claims",
    [{"exp": NOW_S + 1}, {"nbf": NOW_S + 60}, {"exp": NOW_S + 0.5}, {"version": 9}, {"jti": None}],
    ids=repr,
)
def test_other_claims_do_not_matter(verifier: Verifying, claims: dict[str, object]) -> None:
    assert verifier.job(ONE.signed_bytes(json_of(claims_of() | claims)))


def test_a_claim_that_is_there_twice_counts_as_it_is_there_last(verifier: Verifying) -> None:
    text = json_of(claims_of()).decode()[:-1] + ', "aud": "x"}'
    assert verifier.refusal(ONE.signed_bytes(text.encode())) == "wrong audience"


# time


def test_without_the_time_of_redis_a_token_is_in_doubt(verifier: Verifying) -> None:
    token = ONE.token()
    verifier.time[0] = None
    assert verifier.doubt(token) == "no clock"
    verifier.time[0] = NOW_S * 1000
    assert verifier.find(token)
    verifier.time[0] = None
    assert verifier.doubt(token) == "no clock"


def test_what_no_time_could_make_valid_is_refused_without_the_time_of_redis(
    verifier: Verifying,
) -> None:
    verifier.time[0] = None
    assert verifier.refusal(flipped(ONE.token())) == "bad signature"
    assert verifier.refusal(ONE.token(aud="x")) == "wrong audience"


def test_a_known_token_ends_with_its_exp(verifier: Verifying) -> None:
    token = ONE.token(exp=NOW_S + 1)
    assert verifier.find(token)
    verifier.time[0] = NOW_S * 1000 + 999.0
    assert verifier.find(token)
    verifier.time[0] = NOW_S * 1000 + 1000.0
    assert verifier.refusal(token) == "expired"


# verified once


def test_a_token_is_verified_once(verifier: Verifying, monkeypatch: pytest.MonkeyPatch) -> None:
    token = ONE.token()
    first = verifier.find(token)
    monkeypatch.setattr(signed_tokens, "_JWS", None)
    assert verifier.find(token) == first


def test_refused_tokens_push_no_verified_one_out(
    verifier: Verifying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_tokens, "MAX_KNOWN", 2)
    token = ONE.token()
    verifier.find(token)
    for number in range(5):
        verifier.refusal(OTHER.token(number + 1, kid=ONE.kid))
        verifier.doubt(OTHER.token(number + 1))
    monkeypatch.setattr(signed_tokens, "_JWS", None)
    assert verifier.find(token)


def test_no_more_verified_tokens_are_kept_than_the_bound(
    verifier: Verifying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_tokens, "MAX_KNOWN", 3)
    for job in range(1, 9):
        verifier.find(ONE.token(job))
    assert [known.job_key for known in verifier.signed._known.values()] == [
        f"allowed-agents:job:{job}" for job in (6, 7, 8)
    ]


# files that change


async def test_a_key_that_is_removed_ends_its_tokens(verifier: Verifying) -> None:
    token, other = ONE.token(), TWO.token()
    assert verifier.find(token)
    verifier.paths[0].write_bytes(OTHER.pem)
    await verifier.files.refresh()
    assert verifier.doubt(token) == "unknown key"
    assert verifier.find(other)
    assert verifier.find(OTHER.token())


async def test_while_a_file_is_unreadable_every_signed_token_is_in_doubt(
    verifier: Verifying,
) -> None:
    token = TWO.token()
    assert verifier.find(token)
    verifier.paths[0].unlink()
    await verifier.files.refresh()
    for text in (token, ONE.token(), OTHER.token(), flipped(token), unsigned("none")):
        assert verifier.doubt(text) == "keys unreadable"
    assert verifier.find("glcbt-64_abcdefghijklmnopqrst") is None
    verifier.paths[0].write_bytes(ONE.pem)
    await verifier.files.refresh()
    assert verifier.find(token)


# what is reported


def counts() -> dict[str, float]:
    metrics.flush()
    samples = [s for family in metrics.SIGNED_TOKENS.collect() for s in family.samples]
    return {s.labels["result"]: s.value for s in samples if s.name.endswith("_total")}


def test_every_result_is_counted(verifier: Verifying) -> None:
    before = counts()
    token = ONE.token()
    for _ in range(3):
        verifier.find(token)
    verifier.refusal(flipped(token))
    verifier.doubt(OTHER.token())
    verifier.find("glcbt-64_abcdefghijklmnopqrst")
    after = counts()
    changed = {result: after[result] - before[result] for result in after}
    expected = {"verified": 1, "known": 2, "bad signature": 1, "unknown key": 1}
    assert {result: n for result, n in changed.items() if n} == expected


def test_an_unknown_key_is_logged_loudly_and_not_for_each_token(
    verifier: Verifying, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 100.1, 109.9, 110.1])
    monkeypatch.setattr(refusal_log, "elapsed", lambda: next(times))
    with capture_logs() as logged:
        for _ in range(4):
            verifier.doubt(OTHER.token())
    assert [(line["log_level"], line["kid"], line["tokens"]) for line in logged] == [
        ("error", OTHER.kid, 1), ("error", OTHER.kid, 3),
    ]  # fmt: skip
    assert logged[0]["held"] == sorted([ONE.kid, TWO.kid])


@pytest.mark.parametrize(
    ("claims", "result", "found", "expected"),
    [
        ({"iss": "gitlab.example.org"}, "wrong issuer", "gitlab.example.org", ISSUER),
        ({"iss": None}, "wrong issuer", "(none)", ISSUER),
        ({"iss": ["x"]}, "wrong issuer", "(not a text)", ISSUER),
        ({"iss": "i" * 4000}, "wrong issuer", "i" * 300, ISSUER),
        ({"iss": "a\x1b[31m"}, "wrong issuer", "'a\\x1b[31m'", ISSUER),
        ({"aud": "https://vault"}, "wrong audience", "https://vault", "gitlab-authz-token"),
        ({"sub": "project_path:a/b"}, "malformed subject", "project_path:a/b",
         "gid://gitlab/Ci::Build/<id>"),
        ({"exp": "soon"}, "malformed claims", "(none)", "GitLab's claims"),
    ],
)  # fmt: skip
def test_a_claim_that_a_configured_key_has_signed_is_refused_loudly(
    verifier: Verifying, claims: dict[str, object], result: str, found: str, expected: str
) -> None:
    token = ONE.signed_bytes(json.dumps(claims_of() | claims).encode())
    with capture_logs() as logged:
        for _ in range(3):
            assert verifier.refusal(token) == result
    assert logged == [
        {"event": "job tokens of a configured key refused", "log_level": "error",
         "reason": result, "found": found, "expected": expected, "tokens": 1}
    ]  # fmt: skip


def test_each_kind_of_refusal_has_its_own_pause(
    verifier: Verifying, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 100.1, 100.2, 109.9, 110.1])
    monkeypatch.setattr(refusal_log, "elapsed", lambda: next(times))
    with capture_logs() as logged:
        verifier.refusal(ONE.token(iss="x"))
        verifier.doubt(OTHER.token())
        verifier.refusal(ONE.token(aud="x"))
        for _ in range(2):
            verifier.refusal(ONE.token(iss="x"))
    assert [(line.get("reason", "unknown key"), line["tokens"]) for line in logged] == [
        ("wrong issuer", 1), ("unknown key", 1), ("wrong audience", 1), ("wrong issuer", 2),
    ]  # fmt: skip


def test_what_a_client_can_cause_without_the_key_is_not_logged(verifier: Verifying) -> None:
    with capture_logs() as logged:
        for token in (flipped(ONE.token()), tampered(ONE.token()), unsigned("none")):
            verifier.refusal(token)
        verifier.refusal(ONE.token(exp=1))
    assert logged == []


def test_a_key_id_that_is_no_thumbprint_is_not_logged(verifier: Verifying) -> None:
    secret = "glcbt-64_abcdefghijklmnopqrst"
    with capture_logs() as logged:
        verifier.doubt("glcbt-" + segment({"alg": "RS256", "kid": secret}) + ".e30.c2ln")
    assert [line["kid"] for line in logged] == ["(not a thumbprint)"]
    assert secret not in str(logged)


def test_nothing_that_is_raised_or_logged_holds_the_token(verifier: Verifying) -> None:
    with capture_logs() as logged:
        for token in (OTHER.token(), flipped(ONE.token()), ONE.token(aud="x")):
            with pytest.raises((RefusedTokenError, UnverifiableTokenError)) as raised:
                verifier.find(token)
            for part in token.removeprefix("glcbt-").split("."):
                assert part not in str(raised.value) + str(raised.value.__context__) + str(logged)
