"""Lenient reader of JSON for values that the strict one refuses, and the reasons of refusals."""

import codecs
import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

# How often an object may have been encoded.
MAX_QUOTED: Final = 2
# Serializers of schema registries write a NUL and four bytes before the value.
_SCHEMA_BYTES: Final = 5
# A whole escape, or a backslash that begins none, as in a path of Windows.
_BACKSLASH: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_HALF: Final = re.compile("[\ud800-\udfff]")
# Characters of a place, and of a name in one. Names are not cut: a part of a token would show.
MAX_PLACE: Final = 60


class Fields(dict[str, Any]):
    """The fields of an object, of which the last of a repeated name counts; `pairs` has all."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def bounded_integer(digits: str) -> int | str:
    """Keep long numbers as text: Python refuses to parse them, which takes quadratic time."""
    return int(digits) if len(digits) < sys.int_info.str_digits_check_threshold else digits


_LENIENT: Final = json.JSONDecoder(
    object_pairs_hook=Fields, parse_int=bounded_integer, strict=False
)
_STRICT: Final = json.JSONDecoder(parse_int=bounded_integer)


def read_object(value: bytes) -> Fields | None:
    """Return the object in the value, if there is one to be read.

    Takes every encoding of Unicode, a byte order mark, the id of a schema before the object, bytes
    after it, `NaN`, halves of surrogate pairs, backslashes that escape nothing, and an object that
    was encoded as JSON twice.
    """
    encodings = dict.fromkeys((json.detect_encoding(value), "utf-8"))
    texts = [value.decode(encoding, "replace") for encoding in encodings]
    if value.startswith(b"\0"):
        texts.append(value[_SCHEMA_BYTES:].decode(errors="replace"))
    return next((found for found in map(_object_in, texts) if found is not None), None)


def _object_in(text: str, quoted: int = MAX_QUOTED) -> Fields | None:
    text = _BACKSLASH.sub(lambda escape: _escaped(escape[0]), text.lstrip("\ufeff \t\r\n"))
    try:
        tree, _ = _LENIENT.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(tree, str) and quoted > 1:
        return _object_in(tree, quoted - 1)
    return tree if isinstance(tree, Fields) else None


def _escaped(escape: str) -> str:
    return escape if len(escape) > 1 else escape * 2


def fault(value: bytes, root: str) -> str | None:
    """Return why the value is not JSON in UTF-8, or None if Python's reader takes it.

    `root` is the name of the whole value, for the places within it.
    """
    if not value:
        return "it is empty"
    if value.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark; leave that out"
    try:
        tree = _STRICT.decode(value.decode())
    except UnicodeDecodeError as error:
        return _encoding_fault(value) or f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        return _encoding_fault(value) or str(error)
    except RecursionError:
        return None
    if isinstance(tree, dict | list):
        return next(_unwritable(tree, root), None)
    reason = _wrong(tree)
    return reason and f"`{root}` {reason}"


def _encoding_fault(value: bytes) -> str | None:
    encoding = json.detect_encoding(value)
    is_readable = encoding != "utf-8" and _object_in(value.decode(encoding, "replace")) is not None
    return f"it is {encoding.upper()}; send UTF-8" if is_readable else None


def _unwritable(tree: Any, root: str) -> Iterator[str]:
    """Yield where the value has texts or numbers that JSON does not have."""
    pending = [(root, tree)]
    while pending:
        place, node = pending.pop()
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(child, dict | list):
                pending.append((_within(place, name), child))
            elif reason := _wrong(child):
                yield f"`{_within(place, name)}` {reason}"
            if reason := _wrong(name):
                yield f"a name in `{place}` {reason}"


def _wrong(leaf: object) -> str | None:
    if isinstance(leaf, str) and _HALF.search(leaf):
        return "holds half of a surrogate pair, which is not a character"
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return "is NaN or infinite, which JSON does not have"
    return None


def _within(place: str, name: str | int) -> str:
    """Return the place of a child; all below a long one share it, or they would fill the memory."""
    if len(place) > MAX_PLACE:
        return place
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name if len(name) <= MAX_PLACE else '...'}"
