"""Wherever a token stands in a record, nothing that is kept of the record repeats it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.events import redaction
from projector.events.redaction import REDACTED

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
SECRET = "5ecret+0f+old+days"
DIGEST = "ab" * 32
ENCODINGS = ["utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be"]
SECRET_NAMES = ["token", "job_token", "ci_job_token", "Token", "JOB-TOKEN", "ci-job-token"]

many = settings(max_examples=150, deadline=None)

tokens = st.from_regex(r"glcbt-[0-9a-f]{1,3}_[A-Za-z0-9_\-]{20}", fullmatch=True) | st.from_regex(
    r"glcbt-eyJ[A-Za-z0-9_\-]{20,60}\.[A-Za-z0-9_\-]{10,60}\.[A-Za-z0-9_\-]{5,30}", fullmatch=True
)


@st.composite
def escapes(draw: st.DrawFn) -> str:
    """Draw a token in which some letters, or only `-` and `_`, are percent escapes."""
    token = draw(tokens)
    escaped = set(token) if draw(st.booleans()) else set("-_")
    letters = st.sets(st.sampled_from(sorted(escaped & set(token))), min_size=1)
    percent = "%" + "25" * draw(st.integers(0, 2))
    chosen = draw(letters)
    return "".join(f"{percent}{ord(c):02x}" if c in chosen else c for c in token)


disguised = tokens.map(str.upper) | escapes() | escapes().map(str.upper)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
sentences = st.tuples(words, words)
scalars = st.none() | st.booleans() | st.integers() | words
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def planted_in(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Trees with this leaf somewhere in them."""
    fields = st.dictionaries(words, trees, max_size=2)
    listed = st.lists(trees, max_size=2)
    return st.recursive(
        leaf,
        lambda inner: (
            st.tuples(listed, inner, listed).map(lambda t: [*t[0], t[1], *t[2]])
            | st.tuples(fields, words, inner).map(lambda t: t[0] | {t[1]: t[2]})
        ),
        max_leaves=4,
    )


@st.composite
def trees_with_a_token(draw: st.DrawFn) -> tuple[str, Any]:
    """The token as a value or as a key, alone or within other text, at any depth."""
    token = draw(tokens)
    before, after = draw(sentences)
    text = draw(st.sampled_from([token, before + token + after]))
    as_key = st.tuples(st.just(text), trees).map(lambda pair: {pair[0]: pair[1]})
    return token, draw(planted_in(st.just(text) | as_key))


def escaped(text: str, token: str, letters: set[int]) -> str:
    """`text` with these letters of the token written as JSON escapes."""
    hidden = "".join(f"\\u{ord(c):04x}" if i in letters else c for i, c in enumerate(token))
    return text.replace(token, hidden)


def shows(kept: bytes | None, token: str) -> bool:
    """Whether the token can be read from what is kept, in any encoding or behind escapes."""
    assert kept is not None
    if any(token.encode(encoding) in kept for encoding in ENCODINGS):
        return True
    try:
        pairs = json.loads(kept, object_pairs_hook=lambda pairs: pairs)
    except ValueError:
        return False
    return token in json.dumps(pairs, ensure_ascii=False)


# values


@many
@given(trees_with_a_token(), st.booleans(), st.sampled_from(ENCODINGS))
def test_a_token_anywhere_in_a_json_tree_in_any_encoding_is_not_kept(
    planted: tuple[str, Any], ascii_only: bool, encoding: str
) -> None:
    token, tree = planted
    original = json.dumps(tree, ensure_ascii=ascii_only).encode(encoding)
    assert not shows(redaction.redact_value(original), token)


@many
@given(trees_with_a_token(), st.sets(st.integers(0, 30), min_size=1))
def test_a_token_behind_json_escapes_is_not_kept(
    planted: tuple[str, Any], letters: set[int]
) -> None:
    token, tree = planted
    text = json.dumps(tree, ensure_ascii=False)
    assert not shows(redaction.redact_value(escaped(text, token, letters).encode()), token)


@many
@given(tokens, st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(ENCODINGS))
def test_a_token_in_bytes_that_are_no_json_is_not_kept(
    token: str, before: bytes, after: bytes, encoding: str
) -> None:
    assert not shows(redaction.redact_value(before + token.encode(encoding) + after), token)


@pytest.mark.parametrize("first", [f'"{TOKEN}"', '"\\u0067lcbt-64_abcdefghijklmnopqrst"'])
@pytest.mark.parametrize("second", ["1", '"harmless"', "null"])
def test_a_token_in_a_field_that_stands_twice_is_not_kept(first: str, second: str) -> None:
    """JSON readers drop all but the last of them; the bytes still hold every one."""
    original = f'{{"data": {{"note": {first}, "note": {second}}}}}'.encode()
    assert not shows(redaction.redact_value(original), TOKEN)


@many
@given(st.sampled_from(SECRET_NAMES), planted_in(st.just(SECRET)), st.data())
def test_whatever_a_field_named_like_a_token_holds_is_not_kept(
    name: str, held: Any, data: st.DataObject
) -> None:
    """Older tokens have no prefix to know them by."""
    tree = data.draw(planted_in(st.just({name: held})))
    assert not shows(redaction.redact_value(json.dumps(tree).encode()), SECRET)


@pytest.mark.parametrize("name", ["job_token", "job\\u005ftoken", "\\u0074oken"])
def test_a_field_named_like_a_token_is_known_behind_escapes(name: str) -> None:
    assert not shows(redaction.redact_value(f'{{"{name}": "{SECRET}"}}'.encode()), SECRET)


def test_a_field_named_like_a_token_in_broken_json_is_not_kept() -> None:
    assert not shows(redaction.redact_value(f'{{"job_token": "{SECRET}"'.encode()), SECRET)


@pytest.mark.parametrize("digest", [TOKEN, SECRET, DIGEST[:-1], DIGEST + "0"])
def test_a_token_where_its_digest_belongs_is_not_kept(digest: str) -> None:
    original = json.dumps({"data": {"token_sha256": digest}}).encode()
    assert not shows(redaction.redact_value(original), digest)
    assert not shows(
        redaction.redact_headers((("ce_token_sha256", digest.encode()),))[0][1], digest
    )


def test_what_is_around_a_token_is_kept() -> None:
    original = json.dumps({"id": 9, "note": f"use {TOKEN}!", TOKEN: [1, TOKEN, "x"]}).encode()
    redacted = {"id": 9, "note": f"use {REDACTED}!", REDACTED: [1, REDACTED, "x"]}
    assert json.loads(redaction.redact_value(original) or b"") == redacted


def test_all_three_parts_of_a_jwt_are_blotted_out() -> None:
    jwt = "glcbt-eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJnaWQ6Ly8ifQ.c2lnbmF0dXJl-_"
    assert redaction.redact_text(f"use {jwt}!") == f"use {REDACTED}!"


def test_nesting_too_deep_to_search_is_not_kept() -> None:
    deep = b'{"a":' * 100_000 + b'"' + TOKEN.encode() + b'"' + b"}" * 100_000
    kept = redaction.redact_value(deep)
    assert not shows(kept, TOKEN)
    assert b"may hold a token" in (kept or b"")


# keys, headers, sentences


@many
@given(tokens, sentences, st.sampled_from(ENCODINGS))
def test_a_token_in_the_record_key_is_not_kept(
    token: str, around: tuple[str, str], encoding: str
) -> None:
    original = token.join(around).encode(encoding)
    assert not shows(redaction.redact_key(original), token)


@many
@given(tokens, sentences, st.binary(max_size=20), st.sampled_from(ENCODINGS))
def test_a_token_in_a_headers_name_or_content_is_not_kept(
    token: str, around: tuple[str, str], prefix: bytes, encoding: str
) -> None:
    text = token.join(around)
    planted = (
        (text, b"1"),
        ("trace", text.encode(encoding)),
        ("trace", prefix + token.encode()),
        (token, token.encode(encoding)),
    )
    for name, content in redaction.redact_headers(planted):
        assert token not in name
        assert not shows(content, token)


@pytest.mark.parametrize("name", [*SECRET_NAMES, "ce_token", "ce_job_token", "Job-Token"])
def test_a_header_named_like_a_token_keeps_its_name_alone(name: str) -> None:
    assert redaction.redact_headers(((name, SECRET.encode()),)) == ((name, REDACTED.encode()),)


@many
@given(tokens, sentences)
def test_a_token_in_a_sentence_is_not_kept(token: str, around: tuple[str, str]) -> None:
    assert token not in redaction.redact_text(token.join(around))


@many
@given(disguised, sentences)
def test_a_token_in_capitals_or_percent_escapes_is_not_kept(
    token: str, around: tuple[str, str]
) -> None:
    text = token.join(around)
    original = text.encode()
    event = json.dumps({"data": {"url": text, text: 1}}).encode()
    assert token not in redaction.redact_text(text)
    assert original not in (redaction.redact_value(event), redaction.redact_value(original))
    for kept in (
        redaction.redact_value(event),
        redaction.redact_value(original),
        redaction.redact_key(original),
        redaction.redact_headers((("url", original),))[0][1],
        redaction.redact_headers(((text, b"1"),))[0][0].encode(),
    ):
        assert not shows(kept, token)


# what is harmless


def is_harmless(tree: Any) -> bool:
    text = json.dumps(tree, ensure_ascii=False).lower()
    return "glcbt" not in text and 'token"' not in text


@many
@given(trees.filter(is_harmless), st.booleans(), st.sampled_from([None, 1, 4]))
def test_a_harmless_event_keeps_its_exact_bytes(
    tree: Any, ascii_only: bool, indent: int | None
) -> None:
    original = json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode()
    assert redaction.redact_value(original) == original


@pytest.mark.parametrize(
    "original",
    [
        None,
        b"",
        b"not JSON",
        b"\xff\x00\xfe",
        b'{"a": 1.0, "b": 1e2 }',
        b'{"token_sha256": "' + DIGEST.upper().encode() + b'"}',
        b'{"path": "acme/glcbt-tools", "name": "caf\\u00e9"}',
        b'{"path": "glcbt-tools/p", "name": "100%"}',
        b'{"tokens": "a", "token_count": 1, "no_token": "b"}',
        b'{"a": 1, "a": 2}',
    ],
    ids=ascii,
)
def test_what_only_looks_like_a_token_keeps_its_exact_bytes(original: bytes | None) -> None:
    assert redaction.redact_value(original) == original


@many
@given(st.binary(max_size=40).filter(lambda b: b"glcbt" not in b.replace(b"\0", b"")))
def test_a_harmless_key_or_header_keeps_its_exact_bytes(original: bytes) -> None:
    """Also one that is no UTF-8: keys and headers are bytes."""
    assert redaction.redact_key(original) == original
    assert redaction.redact_headers((("trace", original),)) == (("trace", original),)


def test_no_key_stays_no_key() -> None:
    assert redaction.redact_key(None) is None


def test_a_header_without_content_is_kept_as_it_is() -> None:
    """Kafka allows it; an exception here would stop the partition."""
    assert redaction.redact_headers((("trace", None),)) == (("trace", None),)
    assert redaction.secret_in(b"{}", (("trace", None),)) is None


# where a token stands


@many
@given(tokens, words, st.data())
def test_a_string_that_begins_like_a_token_is_found_and_not_repeated(
    token: str, after: str, data: st.DataObject
) -> None:
    tree = data.draw(planted_in(st.just(token + after)))
    place = redaction.secret_in(json.dumps({token: tree}).encode(), ())
    assert place is not None
    assert "glcbt" not in place


@many
@given(trees.filter(is_harmless))
def test_nothing_is_found_in_a_harmless_event(tree: Any) -> None:
    assert redaction.secret_in(json.dumps(tree).encode(), (("trace", b"1"),)) is None


@pytest.mark.parametrize(
    ("value", "headers", "place"),
    [
        (b'{"data": {"job_token": 1}}', (), "the field `job_token`"),
        (b'{"data": {"Job-Token": {}}}', (), "the field `Job-Token`"),
        ({"data": [{"a": TOKEN}]}, (), "the field `a`"),
        ({"data": [TOKEN]}, (), "the field `data`"),
        (f'{{"a": "{TOKEN}", "a": 1}}'.encode(), (), "the field `a`"),
        (f'{{"a": "\\u0067{TOKEN[1:]}"}}'.encode(), (), "the field `a`"),
        (b"{}", (("ce_token", b"x"),), "the header ce_token"),
        (b"{}", (("trace", TOKEN.encode()),), "the header trace"),
        (None, (("trace", TOKEN.encode()),), "the header trace"),
        (None, (), None),
        (b'not JSON, token"', (), None),
        (b'{"data": {"token_sha256": "glcb"}}', (), None),
        (b'{"a": "x glcbt-x", "glcbt-x": 1}', (), None),
    ],
)
def test_the_place_of_a_token_is_named(
    value: Any, headers: tuple[tuple[str, bytes], ...], place: str | None
) -> None:
    event = json.dumps(value).encode() if isinstance(value, dict) else value
    assert redaction.secret_in(event, headers) == place


NAMES = [
    "glcbt-tools/p",
    "review/glcbt-migration-branch-2026",
    "glcbt-",
    "GLCBT-X",
    "acme/glcbt-tools.and.many-other-things/shop",
    "glcbt-64",
    "a%glcbt-b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_only_contains_the_prefix_is_not_a_token(name: str) -> None:
    assert redaction.secret_in(json.dumps({"path": name, name: 1}).encode(), ()) is None
    assert redaction.secret_in(b"{}", (("ce_subject", name.encode()), (name, b"1"))) is None


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        TOKEN.upper(),
        f"glcbt-{'a' * 20}",
        f"(glcbt-{'a' * 20})",
        f"glcbt-{'a' * 20}.",
        f"x{TOKEN}x",
        "glcbt-eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJnaWQ6Ly8ifQ.c2lnbmF0dXJl-_",
        "glcbt%2D64%5Fabcdefghijklmnopqrst",
        "glcbt%252d64_abcdefghijklmnopqrst",
    ],
)
def test_a_token_of_every_shape_is_found(token: str) -> None:
    assert (
        redaction.secret_in(json.dumps({"path": f"a/{token}"}).encode(), ()) == "the field `path`"
    )
    assert redaction.secret_in(None, (("url", token.encode()),)) == "the header url"


@pytest.mark.parametrize("other", [b"1" * 5000, b'"\xff"'], ids=["long number", "no UTF-8"])
def test_a_token_is_found_beside_what_one_json_reader_takes_and_another_does_not(
    other: bytes,
) -> None:
    """The event's own decoder skips both in fields that it does not know, and accepts the event."""
    assert redaction.secret_in(f'{{"note": "{TOKEN}", "other": '.encode() + other + b"}", ())


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ({f"for {TOKEN}": 1}, ()), ({"note": f"use {TOKEN}"}, ()),
        ({}, ((f"ce_{TOKEN}", b"1"),)), ({}, (("trace", b"\xff\xe2use " + TOKEN.encode()),)),
    ],
)  # fmt: skip
def test_a_token_is_found_in_the_midst_of_names_and_contents(
    value: dict[str, Any], headers: redaction.Headers
) -> None:
    place = redaction.secret_in(json.dumps(value).encode(), headers)
    assert place is not None
    assert TOKEN not in place


def test_a_reason_can_be_written_whatever_it_quotes() -> None:
    """JSON may name a field by half a surrogate pair; no encoding has it."""
    place = redaction.secret_in(f'{{"\\ud800": "{TOKEN}"}}'.encode(), ())
    assert place is not None
    assert place.encode() == b"the field `\\ud800`"


def test_the_search_tests_each_name_and_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of 1 MiB may have 350 000 arrays; the name of their field was tested with each."""
    tested: list[str] = []
    is_secret = redaction._is_secret

    def counted(name: str) -> bool:
        tested.append(name)
        return is_secret(name)

    monkeypatch.setattr(redaction, "_is_secret", counted)
    many_arrays: Any = {"x": [[]] * 1000 + [[1], "\u0101"], "y": {"z": [["a"]] * 1000}}
    assert redaction.secret_in(json.dumps(many_arrays).encode(), ()) is None
    assert sorted(tested) == ["x", "y", "z"]
