"""Changes to a valid token, held against a second decision: none of them is ever let through."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.tokens.job_token_keys import KeyFiles
from api.tokens.signed_tokens import RefusedTokenError, SignedTokens, UnverifiableTokenError
from projector.store import schema
from tests.job_tokens import ISSUER, JOB, NOW_S, claims_of, segment, signing_key
from tests.token_oracle import BY_DIGEST, IN_DOUBT, REFUSED, Oracle, Outcome

ONE, TWO, OTHER = signing_key(0), signing_key(1), signing_key(2)
TOKEN: Final = ONE.token()
SLOW_S: Final = 0.5
many = settings(max_examples=100, deadline=None)


class Verifier:
    """A verifier with the keys `ONE` and `TWO`, and the oracle beside it."""

    def __init__(self) -> None:
        with TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("one.pem", "two.pem")]
            for path, key in zip(paths, (ONE, TWO), strict=True):
                path.write_bytes(key.pem)
            self.files = KeyFiles(paths)
        self.now_ms: float | None = NOW_S * 1000.0
        self.signed = SignedTokens(self.files, ISSUER, "", lambda _: self.now_ms)
        keys = {key.kid: key.private.public_key() for key in (ONE, TWO)}
        self.oracle = Oracle(keys, ISSUER, NOW_S * 1000.0)

    def decide(self, token: bytes) -> tuple[Outcome, str]:
        """Return the outcome, and the `result` of the metric if it was refused or in doubt."""
        key = schema.TOKENS + hashlib.sha256(token).hexdigest()
        began = time.thread_time()
        try:
            known = self.signed.verify(token, key, 0.0) if self.signed.jwt_of(token) else None
        except RefusedTokenError as error:
            return REFUSED, str(error)
        except UnverifiableTokenError as error:
            return IN_DOUBT, error.result
        finally:
            assert time.thread_time() - began < SLOW_S
        if known is None:
            return BY_DIGEST, ""
        return int(known.job_key.removeprefix(schema.job_key(0)[:-1])), ""


@cache
def verifier() -> Verifier:
    return Verifier()


def check(token: str | bytes) -> Outcome:
    """Decide about a token, which must be as the oracle decides; twice, as it may be known then."""
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
    outcome, result = verifier().decide(raw)
    assert outcome in verifier().oracle.outcomes(raw)
    assert verifier().decide(raw)[0] == outcome
    assert outcome != IN_DOUBT or result == "unknown key"
    return outcome


def parts(token: str = TOKEN) -> list[str]:
    return token.removeprefix("glcbt-").split(".")


def header(**more: Any) -> dict[str, Any]:
    return {"alg": "RS256", "typ": "JWT", "kid": ONE.kid} | more


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
members = st.dictionaries(st.text(max_size=8), json_values, max_size=3)


def test_the_oracle_and_the_product_take_a_valid_token() -> None:
    assert check(TOKEN) == check(TWO.token()) == JOB


# the text


@many
@given(st.integers(0, len(TOKEN) - 1), st.integers(0, 7))
def test_a_token_with_a_flipped_bit_is_never_let_through(place: int, bit: int) -> None:
    changed = bytearray(TOKEN.encode())
    changed[place] ^= 1 << bit
    assert check(bytes(changed)) in (REFUSED, IN_DOUBT, BY_DIGEST)


@many
@given(st.integers(0, 2), st.data())
def test_a_part_whose_bytes_are_changed_is_never_let_through(
    part: int, data: st.DataObject
) -> None:
    changed = parts()
    raw = bytearray(base64.urlsafe_b64decode(changed[part] + "=="))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    changed[part] = segment(bytes(raw))
    assert check("glcbt-" + ".".join(changed)) in (REFUSED, IN_DOUBT)


@many
@given(st.lists(st.sampled_from([*parts(), *parts(TWO.token(7)), "", "e30", "a", "_"]), max_size=6))
@example(["", "", ""])
@example([*parts(), *parts(TWO.token())[1:]])
def test_parts_that_are_put_together_anew_are_never_let_through(chosen: list[str]) -> None:
    """Detached payloads, five parts as of a JWE, and parts of another valid token."""
    outcome = check("glcbt-" + ".".join(chosen))
    assert isinstance(outcome, str) or chosen in (parts(), parts(TWO.token(7)))


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_another_text_of_the_same_signature_is_refused() -> None:
    """Its digest would be another one: whoever revoked a token by its digest revokes all texts."""
    others = [TOKEN[:-1] + letter for letter in ALPHABET if letter != TOKEN[-1]]
    signature = base64.urlsafe_b64decode(parts()[2] + "==")
    same = [t for t in others if base64.urlsafe_b64decode(parts(t)[2] + "==") == signature]
    assert len(same) == 3 or len(same) == 15
    assert {check(text) for text in others} == {REFUSED}


@many
@given(st.sampled_from("= \n\r\t\0+/%.\u00a0"), st.integers(0, len(TOKEN)), st.integers(1, 3))
def test_padding_and_blanks_make_it_another_text(more: str, place: int, times: int) -> None:
    # Before the name, visible ones make it a token with the instance's prefix.
    is_prefix = place == 0 and more in "=+/%."
    outcome = check(TOKEN[:place] + more * times + TOKEN[place:])
    assert outcome == JOB if is_prefix else isinstance(outcome, str)


@many
@given(st.binary(max_size=200) | st.text(alphabet=ALPHABET + ".", max_size=200))
def test_random_bytes_after_the_name_are_never_let_through(text: bytes | str) -> None:
    raw = text.encode() if isinstance(text, str) else text
    assert isinstance(check(b"glcbt-" + raw), str)


@pytest.mark.parametrize("size", [4096, 8192 - len("glcbt-..")])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_eight_kib_in_any_part_are_refused(part: int, size: int) -> None:
    changed = parts()
    changed[part] = "A" * (size - sum(map(len, changed)) + len(changed[part]))
    assert check("glcbt-" + ".".join(changed)) == REFUSED


# algorithms


@cache
def public_key_as_secret() -> list[bytes]:
    key = ONE.private.public_key()
    pem = [key.public_bytes(Encoding.PEM, form) for form in
           (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)]  # fmt: skip
    der = [key.public_bytes(Encoding.DER, form) for form in
           (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)]  # fmt: skip
    modulus = key.public_numbers().n.to_bytes(256, "big")
    texts = [segment(modulus).encode(), *(text.strip() for text in pem)]
    return [*pem, *der, modulus, *texts, ONE.kid.encode(), b""]


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512", "hs256", "RS256"])
@pytest.mark.parametrize("secret", range(len(public_key_as_secret())))
def test_the_public_key_is_no_secret_of_an_hmac(alg: str, secret: int) -> None:
    text = f"{segment(header(alg=alg))}.{segment(claims_of())}"
    kind = f"sha{alg[2:]}" if alg[2:] in ("384", "512") else "sha256"
    mac = hmac.new(public_key_as_secret()[secret], text.encode(), kind).digest()
    assert check(f"glcbt-{text}.{segment(mac)}") == REFUSED


NONES = ["none", "None", "NONE", "nOnE", "none ", " none", "", "null"]
ALGORITHMS: Sequence[object] = [
    *NONES, None, True, 0, [], {}, ["RS256"], {"alg": "RS256"}, "rs256", "Rs256", "RS256 ",
    "RS256\0", "\uff32\uff33256", "RS384", "RS512", "PS256", "ES256", "EdDSA", "RSA-OAEP", "dir",
]  # fmt: skip


@pytest.mark.parametrize("alg", ALGORITHMS, ids=ascii)
def test_no_other_algorithm_is_taken_although_the_right_key_signed(alg: object) -> None:
    signed = ONE.signed_parts(as_json(header(alg=alg)), as_json(claims_of()))
    assert check(signed) == REFUSED
    assert check(signed.rpartition(".")[0] + ".") == REFUSED


def other_signatures(text: bytes) -> dict[str, bytes]:
    pss = padding.PSS(padding.MGF1(SHA256()), 32)
    private = ec.generate_private_key(ec.SECP256R1())
    genuine = base64.urlsafe_b64decode(parts()[2] + "==")
    number, modulus = int.from_bytes(genuine, "big"), ONE.private.public_key().public_numbers().n
    return {
        "PS256": ONE.private.sign(text, pss, SHA256()),
        "ES256": private.sign(text, ec.ECDSA(SHA256())),
        "EdDSA": ed25519.Ed25519PrivateKey.generate().sign(text),
        "another key": OTHER.private.sign(text, padding.PKCS1v15(), SHA256()),
        "the other configured key": TWO.private.sign(text, padding.PKCS1v15(), SHA256()),
        "0": bytes(256), "1": b"\0" * 255 + b"\1", "empty": b"",
        "n - s": (modulus - number).to_bytes(256, "big"),
        "s + n": (number + modulus).to_bytes(257, "big"), "s with a zero before": b"\0" + genuine,
        "s with a zero after": genuine + b"\0", "half": genuine[:128], "twice": genuine * 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", other_signatures(b"").keys())
def test_another_signature_of_the_same_text_is_refused(name: str) -> None:
    text = ".".join(parts()[:2])
    for alg in ("RS256", name):
        head = parts()[0] if alg == "RS256" else segment(header(alg=alg))
        text = f"{head}.{parts()[1]}"
        signature = other_signatures(text.encode())[name]
        assert check(f"glcbt-{text}.{segment(signature)}") == REFUSED


# headers


@many
@given(members)
def test_more_members_of_the_header_change_nothing_of_the_decision(more: dict[str, Any]) -> None:
    forged = OTHER.signed_parts(as_json(header() | more), as_json(claims_of()))
    assert check(forged) in (REFUSED, IN_DOUBT)
    check(ONE.signed_parts(as_json(header() | more), as_json(claims_of())))


@many
@given(json_values)
@example(TWO.kid)
@example(OTHER.kid)
@example(ONE.kid + "\n")
@example("\ud800")
def test_a_signature_counts_for_the_key_that_the_header_names(kid: object) -> None:
    outcome = check(ONE.signed_parts(as_json(header(kid=kid)), as_json(claims_of())))
    assert outcome == JOB if kid == ONE.kid else outcome in (REFUSED, IN_DOUBT)


CRITS: Final[list[Any]] = [[], ["b64"], ["exp"], [[]], [{}], 5, "b64", None]
ODD_HEADERS = [
    b"", b"x", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"\xef\xbb\xbf{}",
    as_json(header()) + b"x", as_json(header()) + b"{}", as_json([header()]),
    as_json(header())[:-1] + b', "alg": "none"}',
    as_json(header())[:-1] + b', "kid": "' + OTHER.kid.encode() + b'"}',
    b'{"alg": "none", ' + as_json(header())[1:],
    as_json(header())[:-1] + b', "x": ' + b"[" * 1500 + b"]" * 1400 + b"}",
    as_json(header())[:-1] + b', "x": ' + b'{"x":' * 500 + b"1" + b"}" * 500 + b"}",
    as_json(header())[:-1] + b', "x": "\xff"}',
    as_json(header())[:-1] + b', "x": NaN}',
    as_json(header())[:-1] + b', "x": ' + b"9" * 2500 + b"}",
    as_json(header()).decode().encode("utf-16"), as_json(header()).decode().encode("utf-32"),
    *[as_json(header(crit=crit)) for crit in CRITS],
    *[as_json(header(crit=["b64"], b64=b64)) for b64 in (False, True, None, 0, "false")],
    as_json(header(b64=False)), as_json(header(zip="DEF")), as_json(header(cty="JWT")),
    as_json(header(enc="A256GCM")),
]  # fmt: skip


@pytest.mark.parametrize("head", ODD_HEADERS, ids=map(str, range(len(ODD_HEADERS))))
def test_an_odd_header_lets_no_forged_token_through(head: bytes) -> None:
    forged = OTHER.signed_parts(head, as_json(claims_of()))
    assert check(forged) in (REFUSED, IN_DOUBT) or not head
    check(ONE.signed_parts(head, as_json(claims_of())))
    for payload in (as_json(claims_of()), TOKEN.encode(), b"\0"):
        check(f"glcbt-{segment(head)}.{segment(payload)}.")
        check(f"glcbt-{segment(head)}.{segment(payload)}.{parts()[2]}")
        check(f"glcbt-{segment(head)}..{parts()[2]}")


# claims


def with_claim(name: str, literal: bytes) -> bytes:
    """The claims with one in JSON as it is; the text may be JSON no longer."""
    claims = claims_of()
    claims.pop(name, None)
    return as_json(claims)[:-1] + b', "%b": %b}' % (name.encode(), literal)


LITERALS = [
    b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e308",
    b"-1e308", b"-0", b"-0.0", b"0.5", b"-1", b"9" * 400, b"9" * 2500, b"01", b"1.", b".5", b"0x10",
    b'"1"', b'"1800000000"', b"[]", b"{}", b"[9e9]", b"9999999999", b"1800000000.0001", b"18e8",
    b"1_000", b"9223372036854775808", b"18446744073709551616", b"\xff", b'"\xff"', b'"\\ud800"',
]  # fmt: skip


@pytest.mark.parametrize("literal", LITERALS, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("name", ["exp", "nbf", "iat", "sub", "aud", "iss", "x"])
def test_a_claim_of_any_kind_of_json_is_decided_alike(name: str, literal: bytes) -> None:
    payload = with_claim(name, literal)
    outcome = check(ONE.signed_bytes(payload))
    assert outcome == REFUSED or name in ("exp", "nbf", "iat", "x")
    assert check(OTHER.signed_parts(as_json(header()), payload)) == REFUSED


@many
@given(st.sampled_from(["exp", "nbf", "sub", "aud", "iss", "jti"]), json_values)
def test_any_value_of_a_claim_is_decided_alike(name: str, value: object) -> None:
    check(ONE.signed_bytes(as_json(claims_of() | {name: value})))


numbers = st.integers(-(2**65), 2**65).map(str) | st.text(
    alphabet="0123456789\u0660\u0669\uff19 \n\t\0-+._e/\u00b2", max_size=22
)
kinds = st.sampled_from(["Ci::Build", "Ci::Bridge", "User", "ci::build", "Ci::Build/1", "", "*"])


@many
@given(kinds, numbers, st.sampled_from(["", "\n", " ", "\0", "?x", "#", "/"]))
@example("Ci::Build", str(2**63), "")
@example("Ci::Build", str(2**63 - 1), "\n")
@example("Ci::Build", "\u0669", "")
def test_a_subject_of_any_shape_is_decided_alike(kind: str, number: str, end: str) -> None:
    outcome = check(ONE.signed_bytes(as_json(claims_of() | {
        "sub": f"gid://gitlab/{kind}/{number}{end}"
    })))  # fmt: skip
    assert outcome in (REFUSED, int(number) if number.isascii() and number.isdigit() else REFUSED)


ODD_CLAIMS = [
    as_json(claims_of())[:-1] + b', "sub": "gid://gitlab/User/9"}',
    b'{"sub": "gid://gitlab/User/9", ' + as_json(claims_of())[1:],
    as_json(claims_of())[:-1] + b', "x": ' + b"[" * 1400 + b"]" * 1300 + b"}",
    as_json(claims_of())[:-1] + b', "x": "' + b"x" * 2000 + b'"}',
    as_json([claims_of()]), as_json(claims_of()) * 2, TOKEN.encode(), b"", b"\0", b"\xff" * 100,
    as_json(claims_of()).decode().encode("utf-16"),
    as_json(claims_of()).replace(b'"sub"', b'"\\u0073ub"'),
]  # fmt: skip


@pytest.mark.parametrize("payload", ODD_CLAIMS, ids=map(str, range(len(ODD_CLAIMS))))
def test_odd_claims_are_decided_alike(payload: bytes) -> None:
    check(ONE.signed_bytes(payload))
    check(OTHER.signed_parts(as_json(header()), payload))


# what keeps a decision from being made


async def test_a_forged_token_gets_no_more_while_the_keys_are_unreadable_or_without_a_clock() -> (
    None
):
    world = Verifier()
    forged = TOKEN[:-1] + ("Q" if TOKEN.endswith("A") else "A")
    changed = [TOKEN, forged, "glcbt-" + ".".join(["e30"] * 3), OTHER.token()]
    assert [world.decide(text.encode())[0] for text in changed] == [JOB, REFUSED, REFUSED, IN_DOUBT]
    world.now_ms = None
    decided = [world.decide(text.encode()) for text in changed]
    assert [result for _, result in decided][::3] == ["no clock", "unknown key"]
    assert [outcome for outcome, _ in decided][1:3] == [REFUSED, REFUSED]
    # Its files were removed.
    await world.files.refresh()
    decided = [world.decide(text.encode()) for text in changed]
    assert decided == [(IN_DOUBT, "keys unreadable")] * 4
