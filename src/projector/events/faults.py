"""Faults of a value against its type, in sentences for the event's feeder."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from projector.events.model import PATTERNS

# A feeder corrects these first; more would only fill logs and headers.
MAX_FAULTS: Final = 8

_NAMES: Final = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
    "object": "an object", "array": "a list", "null": "null",
}  # fmt: skip
_AT: Final = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_KIND: Final = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_LENGTH: Final = re.compile(r"Expected `str` of length (>=|<=) (\d+)")
_BOUND: Final = re.compile(r"Expected `int` (>=|<=) (-?\d+)")
_MISSING: Final = re.compile(r"Object missing required field `([\w-]+)`")
_ENUM: Final = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_BOUNDS: Final = {">=": "at least", "<=": "at most"}
_IN_WORDS: Final = {
    f"Expected `str` matching regex {pattern!r}": f"must be text {words}"
    for pattern, words in PATTERNS.items()
}

FromWire = Callable[[type, object], object]


def find_faults(kind: Any, value: object, from_wire: FromWire) -> list[str]:
    """Return the first few faults of a value that is not of this type; `$` names the value.

    `value` is as JSON has it. `from_wire` parses what msgspec does not know.
    """
    return list(islice(_faults(kind, value, "$", from_wire), MAX_FAULTS))


def _faults(kind: Any, value: object, place: str, from_wire: FromWire) -> Iterator[str]:
    struct = next((part for part in (kind, *get_args(kind)) if _is_struct(part)), None)
    if struct is None or not isinstance(value, dict):
        yield from _first_fault(kind, value, place, from_wire)
        return
    is_good = True
    for fault in _field_faults(struct, value, place, from_wire):
        is_good = False
        yield fault
    if is_good:
        # The type may still forbid fields that do not go together.
        yield from _first_fault(kind, value, place, from_wire)


def _field_faults(
    struct: type[Struct], value: dict[str, Any], place: str, from_wire: FromWire
) -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        if name in value:
            yield from _faults(field.type, value[name], f"{place}.{name}", from_wire)
        elif field.required:
            yield f"`{place}.{name}` is missing"


def _first_fault(kind: Any, value: object, place: str, from_wire: FromWire) -> Iterator[str]:
    # What is raw is read later, by its own type.
    if msgspec.Raw in (kind, *get_args(kind)):
        return
    try:
        msgspec.convert(value, kind, dec_hook=from_wire)
    except msgspec.ValidationError as error:
        yield in_words(str(error), place)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def in_words(message: str, place: str = "$") -> str:
    """Return msgspec's message about the value at `place` as a sentence."""
    found = _AT.fullmatch(message)
    text, within = (found[1], found[2] or "") if found else (message, "")
    where = place + within
    if missing := _MISSING.fullmatch(text):
        return f"`{where}.{missing[1]}` is missing"
    # It names a field of the value.
    if text.startswith("`$"):
        return text.replace("`$", f"`{where}")
    return f"`{where}` {_predicate(text)}"


def _predicate(text: str) -> str:
    if kind := _KIND.fullmatch(text):
        return f"must be {_named(kind[1])}, and is {_named(kind[2])}"
    if length := _LENGTH.fullmatch(text):
        sign, number = length.groups()
        is_any = (sign, number) == (">=", "1")
        return "must not be empty" if is_any else f"must have {_BOUNDS[sign]} {number} characters"
    if bound := _BOUND.fullmatch(text):
        return f"must be {_BOUNDS[bound[1]]} {bound[2]}"
    if value := _ENUM.fullmatch(text):
        return f"has the unknown value {value[1]}"
    return _IN_WORDS.get(text, text)


def _named(kinds: str) -> str:
    return " or ".join(_NAMES.get(kind, kind) for kind in kinds.split(" | "))
