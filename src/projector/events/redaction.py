"""Detection and redaction of job tokens in records, dead letters, reasons and logs.

Events carry the SHA-256 of a token, never the token. An event that holds a token is refused, and
neither its dead letter nor its reason repeats the token.
"""

import json
import re
from typing import Any, Final

import msgspec

from projector.events.lenient_json import bounded_integer

Headers = tuple[tuple[str, bytes | None], ...]

REDACTED: Final = "[redacted]"

SECRET_FIELDS: Final = ("token", "job_token", "ci_job_token")
# GitLab's tokens: `glcbt-`, perhaps the partition in hex and `_`, then 20 characters; or a JWT.
# Without a partition a longer text is a name, such as glcbt-migration-branch-2026. Also found in
# capitals, and with `-` and `_` as percent escapes, of which `%` may be escaped in turn (%252D).
# For `secret_in` and the JSON Schemas: no look-around, which not every language has.
_DASH: Final = "(-|%(25)*2[Dd])"
_CHARACTER: Final = "([A-Za-z0-9_-]|%(25)*(2[Dd]|5[Ff]))"
TOKEN: Final = (
    f"[Gg][Ll][Cc][Bb][Tt]{_DASH}("
    f"[0-9A-Fa-f]{{1,8}}(_|%(25)*5[Ff]){_CHARACTER}{{20}}"
    f"|{_CHARACTER}{{20}}([^A-Za-z0-9_-]|$)"
    "|[Ee][Yy][Jj][A-Za-z0-9_.-]{16})"
)
_TOKEN: Final = re.compile(TOKEN)
_SHORTEST: Final = len("glcbt-") + 20
# Names of headers that hold no token, so most records need no look at theirs.
HARMLESS_HEADERS: Final = frozenset(
    (
        "content-type",
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_partitionkey",
        "ce_time",
    )
)
_USUAL_HEADER: Final = ("content-type", b"application/cloudevents+json")
# For all that is kept of a record: every text that may be a token, or the beginning of one.
_NAME: Final = "glcbt"
_ESCAPED: Final = "".join(f"(?:{c}|%(?:25)*{ord(c):x})" for c in _NAME)
_ESCAPED_NAME: Final = re.compile(_ESCAPED, re.ASCII | re.IGNORECASE)
_KEPT: Final = re.compile(
    f"{_ESCAPED}(?:-|%(?:25)*2d)[A-Za-z0-9_.%-]{{16,}}", re.ASCII | re.IGNORECASE
)
_NAME_BYTES: Final = _NAME.encode()
_CONTAINERS: Final = (dict, list)
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def redact_text(sentence: str) -> str:
    """Redact tokens, and escape characters that UTF-8 cannot encode."""
    # JSON may hold halves of surrogate pairs, which UTF-8 cannot encode.
    readable = sentence.encode(errors="backslashreplace").decode()
    return _KEPT.sub(REDACTED, readable) if _may_hold_token(readable) else readable


def secret_in(value: bytes | None, headers: Headers) -> str | None:
    """Name the field or header of a record that holds a token, without the token; or None."""
    for header in headers:
        if header == _USUAL_HEADER:
            continue
        name, content = header
        is_short = content is None or len(content) < _SHORTEST
        if is_short and name in HARMLESS_HEADERS:
            continue
        # Bytes that are not UTF-8 are replaced; the characters of a token stay as they are.
        is_suspicious = content and not is_short and _NAME_BYTES in content.lower()
        leaf = content.decode(errors="replace") if content and is_suspicious else None
        if _holds_token(name.removeprefix("ce_"), leaf):
            return f"the header {redact_text(name)}"
    if value is None or not _is_suspicious(value):
        return None
    try:
        secret = _secret_field(_parse(value))
    except RecursionError:
        return "a field nested too deep to be searched, which perhaps"
    except ValueError:
        return None
    return None if secret is None else f"the field `{redact_text(secret)}`"


def nesting(tree: object) -> int:
    """Return how deep objects and arrays of a decoded JSON value are nested."""
    pending: list[tuple[Any, int]] = [([tree], 0)]
    deepest = 0
    while pending:
        node, depth = pending.pop()
        deepest = max(deepest, depth)
        children = node.values() if isinstance(node, dict) else node
        pending += [(child, depth + 1) for child in children if isinstance(child, _CONTAINERS)]
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
    if not _may_hold_token(_without_nuls(original)):
        return original
    if b"\0" in original:
        return REDACTED.encode()
    try:
        return redact_text(original.decode()).encode()
    except UnicodeDecodeError:
        return REDACTED.encode()


def _may_need_redaction(original: bytes) -> bool:
    """Also true for other encodings (NULs between the letters), and for a token as digest."""
    readable = _without_nuls(original)
    is_encoded = _is_suspicious(readable.encode("latin-1")) or _may_hold_token(readable)
    return is_encoded or b"token_sha256" in original


def _without_nuls(original: bytes) -> str:
    """Return the ASCII characters of bytes in any of Unicode's encodings, and others as well."""
    return original.replace(b"\0", b"").decode("latin-1")


def _may_hold_token(text: str) -> bool:
    """Test cheaply; the first letters may be percent escapes."""
    return _NAME in text.lower() or ("%" in text and _ESCAPED_NAME.search(text) is not None)


def _is_suspicious(value: bytes) -> bool:
    """Test raw bytes cheaply; an escape (\\u0067lcbt-) could hide a token, so it counts too."""
    lowered = value.lower()
    if b"\\" in lowered and b"\\u" in lowered:
        return True
    return _NAME_BYTES in lowered or b'token"' in lowered


def _parse(value: bytes) -> Any:
    """Parse leniently: a token must be found in all that any reader of JSON accepts."""
    readable = value.decode(errors="replace")
    return json.loads(readable, object_pairs_hook=_merged, parse_int=bounded_integer, strict=False)


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keep all values of a repeated field, so that none hides a token in another."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        fields[name] = [fields[name], value] if name in fields else value
    return fields


def _is_secret(name: str) -> bool:
    return name.lower().replace("-", "_") in SECRET_FIELDS


def _holds_token(name: str, leaf: object) -> bool:
    texts = (name, leaf) if isinstance(leaf, str) else (name,)
    return _is_secret(name) or any(map(_has_token, texts))


def _has_token(text: str) -> bool:
    return _NAME in text.lower() and _TOKEN.search(text) is not None


def _redact_leaf(name: str, leaf: str) -> str:
    is_wrong_digest = name == "token_sha256" and not _DIGEST.fullmatch(leaf)
    return REDACTED if is_wrong_digest or _is_secret(name) else redact_text(leaf)


def _redact_tree(node: Any, name: str = "") -> Any:
    if _is_secret(name):
        return REDACTED
    if isinstance(node, dict):
        return {redact_text(key): _redact_tree(child, key) for key, child in node.items()}
    if isinstance(node, list):
        return [_redact_tree(child) for child in node]
    return _redact_leaf(name, node) if isinstance(node, str) else node


def _secret_field(tree: Any) -> str | None:
    """Return the name of a field that holds a token, or None.

    An event may have hundreds of thousands of arrays: each field's name is tested once, not with
    every value below it.
    """
    pending: list[tuple[str, Any]] = [("", [tree])]
    while pending:
        name, node = pending.pop()
        if isinstance(node, dict):
            for field, child in node.items():
                if _holds_token(field, child):
                    return field or name
                if isinstance(child, _CONTAINERS):
                    pending.append((field or name, child))
        else:
            for child in node:
                if isinstance(child, _CONTAINERS):
                    if child:
                        pending.append((name, child))
                elif isinstance(child, str) and _has_token(child):
                    return name
    return None
