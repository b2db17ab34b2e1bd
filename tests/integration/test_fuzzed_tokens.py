"""A hundred thousand hostile tokens, each decided twice: by the product and by the oracle.

FUZZ_SEED=N repeats a run, whose seed is printed.
"""

import base64
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.job_tokens import JOB, claims_of, segment, signing_key
from tests.token_oracle import BY_DIGEST, IN_DOUBT, REFUSED
from tests.unit.api.tokens.test_hostile_tokens import ALPHABET, Verifier, as_json, header

TOKENS: Final = 100_000
# Signing takes far longer than checking, so that few are signed anew.
SIGNED_SHARE: Final = 0.08
KEYS: Final = [signing_key(0), signing_key(1), signing_key(2)]
VALUES: Final[list[Any]] = [
    None, True, False, 0, -1, 9, 1e308, 2**63, 2**64, 10**400, float("nan"), float("inf"), "", "9",
    "none", "RS256", "HS256", [], {}, ["RS256"], "gid://gitlab/Ci::Build/10", "\ud800", "\u0669",
    "gid://gitlab/Ci::Build/09", "gid://gitlab/User/9", 1_799_999_999, 1_800_000_001, "9" * 3000,
    "gid://gitlab/Ci::Build/9223372036854775808", "gitlab-authz-token", "gitlab.example.com",
]  # fmt: skip
NAMES: Final = ["alg", "kid", "typ", "crit", "b64", "jwk", "sub", "aud", "iss", "exp", "nbf", "x"]


class Mutations:
    """Hostile tokens, made from valid ones at random."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._valid = [key.token(job) for key in KEYS for job in (JOB, 77)]
        self._kinds: list[Callable[[str], bytes]] = [
            self._flipped, self._joined, self._noise, self._edited, self._resigned, self._cut,
            self._stuffed, str.encode, self._recoded,
        ]  # fmt: skip

    def next(self) -> bytes:
        """Make one token."""
        token = self._chance.choice(self._valid)
        if self._chance.random() < SIGNED_SHARE:
            return self._signed()
        made = self._chance.choice(self._kinds)(token)
        return self._flipped(made.decode("latin-1")) if self._chance.random() < 0.1 else made

    def _flipped(self, token: str) -> bytes:
        changed = bytearray(token.encode("latin-1"))
        for _ in range(self._chance.choice([1, 1, 1, 2, 8])):
            if changed:
                changed[self._chance.randrange(len(changed))] ^= 1 << self._chance.randrange(8)
        return bytes(changed)

    def _joined(self, _: str) -> bytes:
        parts = [part for token in self._valid for part in token[6:].split(".")]
        count = self._chance.choice([3, 3, 3, 1, 2, 4, 5])
        return ("glcbt-" + ".".join(self._chance.choices(parts, k=count))).encode()

    def _noise(self, _: str) -> bytes:
        size = self._chance.choice([0, 3, 40, 400, 8192])
        if self._chance.random() < 0.5:
            return b"glcbt-" + self._chance.randbytes(size)
        return ("glcbt-" + "".join(self._chance.choices(ALPHABET + "..", k=size))).encode()

    def _object(self, valid: dict[str, Any]) -> bytes:
        """A header or claims with a few members changed, doubled or taken away."""
        for _ in range(self._chance.choice([0, 1, 1, 2])):
            valid[self._chance.choice(NAMES)] = self._chance.choice(VALUES)
        if self._chance.random() < 0.1:
            valid.pop(self._chance.choice(list(valid)))
        text = as_json(valid)
        if self._chance.random() < 0.1:
            name = self._chance.choice(NAMES)
            text = text[:-1] + b", " + as_json({name: self._chance.choice(VALUES)})[1:]
        return self._flipped(text.decode()) if self._chance.random() < 0.05 else text

    def _edited(self, token: str) -> bytes:
        head, claims, signature = token[6:].split(".")
        if self._chance.random() < 0.5:
            head = segment(self._object(header()))
        else:
            claims = segment(self._object(claims_of()))
        return f"glcbt-{head}.{claims}.{signature}".encode()

    def _resigned(self, token: str) -> bytes:
        before = token.rpartition(".")[0]
        size = self._chance.choice([0, 1, 32, 64, 255, 256, 257, 512])
        return f"{before}.{segment(self._chance.randbytes(size))}".encode()

    def _signed(self) -> bytes:
        key = self._chance.choice(KEYS)
        return key.signed_parts(
            self._object(header(kid=self._chance.choice(KEYS).kid)), self._object(claims_of())
        ).encode()

    def _cut(self, token: str) -> bytes:
        start, end = sorted(self._chance.sample(range(len(token) + 1), 2))
        return (token[:start] + token[end:]).encode()

    def _stuffed(self, token: str) -> bytes:
        place = self._chance.choice([0, len(token), self._chance.randrange(len(token))])
        more = self._chance.choice(["=", "==", "\n", " ", ".", "A", "glcbt-", "x" * 8000, "\0"])
        return (token[:place] + more + token[place:]).encode()

    def _recoded(self, token: str) -> bytes:
        """Another text of the same bytes, or of a few that are left out at its end."""
        parts = token[6:].split(".")
        number = self._chance.randrange(3)
        last = self._chance.choice(ALPHABET)
        parts[number] = parts[number][:-1] + last
        if self._chance.random() < 0.2:
            raw = base64.urlsafe_b64decode(parts[number] + "==")
            parts[number] = base64.b64encode(raw).decode()
        return ("glcbt-" + ".".join(parts)).encode()


def test_every_hostile_token_is_decided_as_by_the_oracle(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    with capsys.disabled():
        print(f"\nFUZZ_SEED={seed}")
    mutations, world = Mutations(random.Random(seed)), Verifier()
    seen: Counter[str] = Counter()
    for number in range(TOKENS):
        token = mutations.next()
        outcome, result = world.decide(token)
        right = world.oracle.outcomes(token)
        # The keys are new in each run: the token says more than its number.
        assert outcome in right, f"token {number}: {outcome} {result}, not {right}: {token!r}"
        assert outcome != IN_DOUBT or result == "unknown key"
        seen[result or ("verified" if outcome != BY_DIGEST else BY_DIGEST)] += 1
    with capsys.disabled():
        print(dict(seen.most_common()))
    # Each kind of outcome was met often enough to mean something.
    for kind in ("verified", BY_DIGEST, "bad signature", "unknown key", "malformed claims"):
        assert seen[kind] > 100, kind
    assert REFUSED not in seen
