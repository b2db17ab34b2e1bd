"""Values that are not quite JSON: the object in them, and the fault's name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.events.lenient_json import Fields, fault, read_object

OBJECT = {"a": 1, "b": ["x", None, {"c": "ü"}]}
TEXT = json.dumps(OBJECT, ensure_ascii=False)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_object_is_read_in_every_encoding_of_unicode(encoding: str) -> None:
    value = TEXT.encode(encoding)
    assert read_object(value) == OBJECT
    assert (fault(value, "event") is None) == (encoding == "utf-8")


@pytest.mark.parametrize("number", [0, 1, 91, 123, 2**31])
def test_an_object_behind_the_id_of_a_schema_is_read(number: int) -> None:
    """Serializers of schema registries write a NUL and four bytes before the value."""
    value = b"\0" + number.to_bytes(4, "big") + TEXT.encode()
    assert read_object(value) == OBJECT


def test_an_object_that_was_encoded_twice_is_read_but_not_more_often() -> None:
    twice = json.dumps(TEXT)
    assert read_object(twice.encode()) == OBJECT
    assert read_object(json.dumps(json.dumps(twice)).encode()) is None


@pytest.mark.parametrize("value", [b"", b"1", b"[]", b'[{"a": 1}]', b'"a"', b"{", b"\xff", b"\0"])
def test_what_is_not_one_object_is_not_read(value: bytes) -> None:
    assert read_object(value) is None


def test_backslashes_that_escape_nothing_are_kept() -> None:
    assert read_object(rb'{"a": "C:\users\dev\\n\u00fc\""}') == {"a": 'C:\\users\\dev\\nü"'}


def test_all_fields_of_a_repeated_name_are_kept() -> None:
    found = read_object(b'{"a": 1, "a": 2}')
    assert isinstance(found, Fields)
    assert (found, found.pairs) == ({"a": 2}, [("a", 1), ("a", 2)])


def test_a_place_stays_short_however_deep_and_long_its_names_are() -> None:
    name = b'{"' + b"x" * 1000 + b'":'
    value = name * 500 + b"[" + b"1," * 200_000 + b"NaN]" + b"}" * 500
    assert len(fault(value, "event") or "") < 300
    assert "event.b.b.b" in (fault(b'{"b":' * 500 + b"NaN" + b"}" * 500, "event") or "")
    assert (fault(b"NaN", "event") or "").startswith("`event` is NaN")


@pytest.mark.parametrize("value", [b'{"a":' * 100_000, b'{"a": ' + b"1" * 100_000 + b"}"])
def test_hostile_values_cost_neither_the_stack_nor_quadratic_time(value: bytes) -> None:
    read_object(value)
    fault(value, "event")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_not(value: bytes) -> None:
    read_object(value)
    read_object(b'{"a":' + value + b"}")
    fault(value, "event")
    fault(b'{"a":' + value + b"}", "event")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "it is empty"),
        (b'{"a" 1}', "Expecting ':' delimiter: line 1 column 6 (char 5)"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a": 1e999}', "`event.a` is NaN or infinite, which JSON does not have"),
        (b'{"a": {"b": [0, "\\ud800"]}}', "`event.a.b[1]` holds half of a surrogate pair, "
         "which is not a character"),
    ],
)  # fmt: skip
def test_the_fault_is_named_with_its_place(value: bytes, says: str) -> None:
    assert fault(value, "event") == says
