"""Keeps job tokens out of everything: finds them in records, and blots them out of what is kept.

A token itself never travels; only its SHA-256 does. Where one is sent all the same, the event is
refused and neither the dead letter nor the reason repeats it.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec

Headers = tuple[tuple[str, bytes | None], ...]

REDACTED: Final = "[redacted]"

SECRET_FIELDS: Final = ("token", "job_token", "ci_job_token")
PREFIX: Final = "glcbt-"
# Tokens have at least 20 characters behind the prefix; a path like acme/glcbt-tools is none.
TOKEN: Final = PREFIX + "[A-Za-z0-9_.-]{16,}"
_TOKEN: Final = re.compile(TOKEN)
_PREFIX: Final = PREFIX.encode()
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def redact_text(sentence: str) -> str:
    """`sentence` without any token that stands in it, such that it can be written anywhere."""
    # JSON may hold halves of surrogate pairs, which no encoding has.
    return _TOKEN.sub(REDACTED, sentence.encode(errors="backslashreplace").decode())


def secret_in(value: bytes | None, headers: Headers) -> str | None:
    """Which field or header of a record holds a token, or None; it never returns the token."""
    for name, content in headers:
        # Whatever else is in the content, decoding leaves the prefix as it is.
        leaf = content.decode(errors="replace") if content and _PREFIX in content else None
        if _holds_token(name.removeprefix("ce_"), leaf):
            return f"the header {redact_text(name)}"
    if value is None or not _is_suspicious(value):
        return None
    try:
        leaves = _leaves(_parse(value))
    except RecursionError:
        return "a field nested too deep to be searched, which perhaps"
    except ValueError:
        return None
    secret = next((name for name, leaf in leaves if _holds_token(name, leaf)), None)
    return None if secret is None else f"the field `{redact_text(secret)}`"


def nesting(tree: object) -> int:
    """How many objects and arrays of a decoded JSON value lie inside one another."""
    deepest, pending = 0, [(tree, 1)]
    while pending:
        node, depth = pending.pop()
        children = _children(node)
        deepest = max(deepest, depth) if children is not None else deepest
        pending.extend((child, depth + 1) for _, child in children or ())
    return deepest


def redact_value(original: bytes | None) -> bytes | None:
    """What may be kept of a record's value: the same bytes unless a token stands in them."""
    if original is None or not _worth_reading(original):
        return original
    try:
        tree = _parse(original)
        kept = _redacted(tree)
        return original if kept == tree else msgspec.json.encode(kept)
    except (ValueError, RecursionError):
        return f"{REDACTED}: {len(original)} bytes that are not JSON and may hold a token".encode()


def redact_headers(original: Headers) -> Headers:
    """What may be kept of a record's headers."""
    return tuple((redact_text(name), _content(name, content)) for name, content in original)


def redact_key(original: bytes | None) -> bytes | None:
    """What may be kept of a record's key."""
    return _content("", original)


def _content(name: str, original: bytes | None) -> bytes | None:
    """The same bytes unless a token stands in them; nothing of those that are no plain text."""
    if original is None:
        return None
    kept = _blotted(name.removeprefix("ce_"), original.decode(errors="replace"))
    if kept == REDACTED:
        return REDACTED.encode()
    if b"glcbt" not in original.replace(b"\0", b""):
        return original
    try:
        return REDACTED.encode() if b"\0" in original else redact_text(original.decode()).encode()
    except UnicodeDecodeError:
        return REDACTED.encode()


def _worth_reading(original: bytes) -> bool:
    """Also true for other encodings (NULs between the letters) and for a misfiled digest."""
    return _is_suspicious(original.replace(b"\0", b"")) or b"token_sha256" in original


def _is_suspicious(value: bytes) -> bool:
    """A cheap test on raw bytes; an escape (\\u0067lcbt-) could hide what it looks for."""
    lowered = value.lower()
    if b"\\" in lowered and b"\\u" in lowered:
        return True
    return b"glcbt" in lowered or b'token"' in lowered


def _parse(value: bytes) -> Any:
    """As forgiving as can be: whatever another reader accepts must be searched."""
    readable = value.decode(errors="replace")
    return json.loads(readable, object_pairs_hook=_merged, parse_int=_integer, strict=False)


def _integer(digits: str) -> int | str:
    """Python refuses to read longer ones, for that takes quadratic time."""
    return int(digits) if len(digits) < sys.int_info.str_digits_check_threshold else digits


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields that come twice keep all their values: a token may not hide behind another value."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        fields[name] = [fields[name], value] if name in fields else value
    return fields


def _is_secret(name: str, leaf: object) -> bool:
    if name.lower().replace("-", "_") in SECRET_FIELDS:
        return True
    return isinstance(leaf, str) and leaf.startswith(PREFIX)


def _holds_token(name: str, leaf: object) -> bool:
    if _is_secret(name, leaf) or _has_token(name):
        return True
    return isinstance(leaf, str) and _has_token(leaf)


def _has_token(sentence: str) -> bool:
    return PREFIX in sentence and _TOKEN.search(sentence) is not None


def _blotted(name: str, leaf: str) -> str:
    misfiled = name == "token_sha256" and not _DIGEST.fullmatch(leaf)
    return REDACTED if misfiled or _is_secret(name, leaf) else redact_text(leaf)


def _redacted(node: Any, name: str = "") -> Any:
    if _is_secret(name, node):
        return REDACTED
    if isinstance(node, dict):
        return {redact_text(key): _redacted(child, key) for key, child in node.items()}
    if isinstance(node, list):
        return [_redacted(child) for child in node]
    return _blotted(name, node) if isinstance(node, str) else node


def _children(node: object) -> list[tuple[str, Any]] | None:
    if isinstance(node, dict):
        return list(node.items())
    return [("", child) for child in node] if isinstance(node, list) else None


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every value of the tree with the name of the field that it stands in, containers too."""
    pending: list[tuple[str, Any]] = [("", tree)]
    while pending:
        name, node = pending.pop()
        yield name, node
        pending.extend((child or name, leaf) for child, leaf in _children(node) or ())
