"""Keeps job tokens out of everything: finds them in records, and blots them out of what is kept.

A token itself never travels; only its SHA-256 does. Where one is sent all the same, the event is
refused and neither the dead letter nor the reason repeats it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

REDACTED: Final = "[redacted]"

_SECRET_FIELDS: Final = {"token", "job_token", "ci_job_token"}
_PREFIX: Final = "glcbt-"
# Tokens have at least 20 characters behind the prefix; a path like acme/glcbt-tools is none.
_TOKEN: Final = re.compile(r"glcbt-[\w.\-]{16,}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
# Cheap test on raw bytes; an escape (\u0067lcbt-) could hide what it looks for.
_SUSPICIOUS: Final = re.compile(rb"glcbt|token\"|\\u", re.IGNORECASE)


def text(sentence: str) -> str:
    """`sentence` without any token that stands in it."""
    return _TOKEN.sub(REDACTED, sentence)


def secret_in(value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> str | None:
    """Where a record carries a token (`data.job_token`), or None; it never returns the token."""
    for name, content in headers:
        if _is_secret(name.removeprefix("ce_"), content.decode(errors="replace")):
            return f"header {text(name)}"
    if value is None or not _SUSPICIOUS.search(value):
        return None
    return next(
        (path for path, name, leaf in _leaves(_parsed(value)) if _is_secret(name, leaf)), None
    )


def nesting(tree: object) -> int:
    """How many objects and arrays of a decoded JSON value lie inside one another."""
    deepest, pending = 0, [(tree, 1)]
    while pending:
        node, depth = pending.pop()
        children = _children(node)
        deepest = max(deepest, depth) if children is not None else deepest
        pending.extend((child, depth + 1) for _, child in children or ())
    return deepest


def value(original: bytes | None) -> bytes | None:
    """What may be kept of a record's value: the same bytes unless a token stands in them."""
    if original is None or not _worth_reading(original):
        return original
    try:
        tree = msgspec.json.decode(original)
        return msgspec.json.encode(_redacted(tree)) if _redacted(tree) != tree else original
    except (ValueError, RecursionError):
        return f"{REDACTED}: {len(original)} bytes that are not JSON and may hold a token".encode()


def headers(original: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    """What may be kept of a record's headers."""
    return tuple(
        (
            text(name),
            text(_blotted(name.removeprefix("ce_"), content.decode(errors="replace"))).encode(),
        )
        for name, content in original
    )


def key(original: bytes | None) -> bytes | None:
    """What may be kept of a record's key."""
    return (
        None if original is None else text(_blotted("", original.decode(errors="replace"))).encode()
    )


def _worth_reading(original: bytes) -> bool:
    """Also true for other encodings (NULs between the letters) and for a misfiled digest."""
    return bool(_SUSPICIOUS.search(original.replace(b"\0", b""))) or b"token_sha256" in original


def _parsed(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None


def _is_secret(name: str, leaf: object) -> bool:
    if name.lower().replace("-", "_") in _SECRET_FIELDS:
        return True
    return isinstance(leaf, str) and leaf.startswith(_PREFIX)


def _blotted(name: str, leaf: str) -> str:
    misfiled = name == "token_sha256" and not _DIGEST.fullmatch(leaf)
    return REDACTED if misfiled or _is_secret(name, leaf) else text(leaf)


def _redacted(node: Any, name: str = "") -> Any:
    if isinstance(node, dict):
        return {text(key): _redacted(child, key) for key, child in node.items()}
    if _is_secret(name, node):
        return REDACTED
    if isinstance(node, list):
        return [_redacted(child) for child in node]
    return _blotted(name, node) if isinstance(node, str) else node


def _children(node: object) -> list[tuple[str, Any]] | None:
    if isinstance(node, dict):
        return list(node.items())
    return [("", child) for child in node] if isinstance(node, list) else None


def _leaves(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """Every named or listed value of the tree as (path, field name, value), containers too."""
    pending: list[tuple[str, str, Any]] = [("event", "", tree)]
    while pending:
        path, name, node = pending.pop()
        yield path, name, node
        pending.extend(
            (f"{path}.{text(child)[:40]}" if child else path, child, leaf)
            for child, leaf in _children(node) or ()
        )
