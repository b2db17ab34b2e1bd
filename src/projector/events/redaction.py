"""Detection and redaction of job tokens in records, dead letters, reasons and logs.

Events carry the SHA-256 of a token, never the token. An event that holds a token is refused, and
neither its dead letter nor its reason repeats the token.
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
# Tokens have at least 20 characters after the prefix; a path like acme/glcbt-tools is not one.
TOKEN: Final = PREFIX + "[A-Za-z0-9_.-]{16,}"
_TOKEN: Final = re.compile(TOKEN)
_PREFIX: Final = PREFIX.encode()
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def redact_text(sentence: str) -> str:
    """Redact tokens, and escape characters that UTF-8 cannot encode."""
    # JSON may hold halves of surrogate pairs, which UTF-8 cannot encode.
    return _TOKEN.sub(REDACTED, sentence.encode(errors="backslashreplace").decode())


def secret_in(value: bytes | None, headers: Headers) -> str | None:
    """Name the field or header of a record that holds a token, without the token; or None."""
    for name, content in headers:
        # Bytes that are not UTF-8 are replaced; the prefix stays as it is.
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
    """Return how deep objects and arrays of a decoded JSON value are nested."""
    deepest, pending = 0, [(tree, 1)]
    while pending:
        node, depth = pending.pop()
        children = _children(node)
        deepest = max(deepest, depth) if children is not None else deepest
        pending.extend((child, depth + 1) for _, child in children or ())
    return deepest


def redact_value(original: bytes | None) -> bytes | None:
    """Redact tokens in a record's value; a value without one keeps its exact bytes."""
    if original is None or not _may_need_redaction(original):
        return original
    try:
        tree = _parse(original)
        redacted = _redact_tree(tree)
        return original if redacted == tree else msgspec.json.encode(redacted)
    except (ValueError, RecursionError):
        return f"{REDACTED}: {len(original)} bytes that are not JSON and may hold a token".encode()


def redact_headers(original: Headers) -> Headers:
    """Redact tokens in the names and contents of a record's headers."""
    return tuple((redact_text(name), _redact_bytes(name, content)) for name, content in original)


def redact_key(original: bytes | None) -> bytes | None:
    """Redact tokens in a record's key."""
    return _redact_bytes("", original)


def _redact_bytes(name: str, original: bytes | None) -> bytes | None:
    """Redact tokens in bytes; of other encodings that may hold one, keep nothing."""
    if original is None:
        return None
    redacted = _redact_leaf(name.removeprefix("ce_"), original.decode(errors="replace"))
    if redacted == REDACTED:
        return REDACTED.encode()
    if b"glcbt" not in original.replace(b"\0", b""):
        return original
    try:
        return REDACTED.encode() if b"\0" in original else redact_text(original.decode()).encode()
    except UnicodeDecodeError:
        return REDACTED.encode()


def _may_need_redaction(original: bytes) -> bool:
    """Also true for other encodings (NULs between the letters), and for a token as digest."""
    return _is_suspicious(original.replace(b"\0", b"")) or b"token_sha256" in original


def _is_suspicious(value: bytes) -> bool:
    """Test raw bytes cheaply; an escape (\\u0067lcbt-) could hide a token, so it counts too."""
    lowered = value.lower()
    if b"\\" in lowered and b"\\u" in lowered:
        return True
    return b"glcbt" in lowered or b'token"' in lowered


def _parse(value: bytes) -> Any:
    """Parse leniently: a token must be found in all that any reader of JSON accepts."""
    readable = value.decode(errors="replace")
    return json.loads(readable, object_pairs_hook=_merged, parse_int=_integer, strict=False)


def _integer(digits: str) -> int | str:
    """Keep long numbers as text: Python refuses to parse them, which takes quadratic time."""
    return int(digits) if len(digits) < sys.int_info.str_digits_check_threshold else digits


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keep all values of a repeated field, so that none hides a token in another."""
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


def _redact_leaf(name: str, leaf: str) -> str:
    is_wrong_digest = name == "token_sha256" and not _DIGEST.fullmatch(leaf)
    return REDACTED if is_wrong_digest or _is_secret(name, leaf) else redact_text(leaf)


def _redact_tree(node: Any, name: str = "") -> Any:
    if _is_secret(name, node):
        return REDACTED
    if isinstance(node, dict):
        return {redact_text(key): _redact_tree(child, key) for key, child in node.items()}
    if isinstance(node, list):
        return [_redact_tree(child) for child in node]
    return _redact_leaf(name, node) if isinstance(node, str) else node


def _children(node: object) -> list[tuple[str, Any]] | None:
    if isinstance(node, dict):
        return list(node.items())
    return [("", child) for child in node] if isinstance(node, list) else None


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value of the tree, containers too, with the name of its field."""
    pending: list[tuple[str, Any]] = [("", tree)]
    while pending:
        name, node = pending.pop()
        yield name, node
        pending.extend((child or name, leaf) for child, leaf in _children(node) or ())
