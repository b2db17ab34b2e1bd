"""Poison records: values and headers that are not valid events."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any, Final

from tests import builders
from tests.faults.scenario import RawRecord
from tests.faults.traffic import Headers

MIB: Final = 1024 * 1024
TOPICS: Final = ("membership", "agent-config", "job-lifecycle")


def records(root: str, partition: int, count: int, seed: int) -> Iterator[RawRecord]:
    """Yield `count` records for one partition, which must be that of `root`."""
    dice = Random(seed)
    for number in range(count):
        value, headers = _large(dice) if number % 100 == 0 else _small(root, dice)
        yield RawRecord(dice.choice(TOPICS), value, root.encode(), partition, headers)


def _small(root: str, dice: Random) -> tuple[bytes | None, Headers]:
    good = builders.group(int(root), root=root)
    shapes: list[tuple[bytes | None, Headers]] = [
        (None, ()),
        (b"", ()),
        (b"{not json", ()),
        (b"\xff\xfe\x00", ()),
        (b"[1, 2]", ()),
        (b'"text"', ()),
        (b"NaN", ()),
        (as_json(good | {"type": "group.exploded"}), ()),
        (as_json(good | {"type": 7}), ()),
        (as_json(good | {"specversion": "0.3"}), ()),
        (as_json(good | {"partitionkey": "-1"}), ()),
        (as_json(good | {"partitionkey": int(root)}), ()),
        (as_json(good | {"sequence": "1e9"}), ()),
        (as_json(good | {"data": None}), ()),
        (as_json(good | {"data": {"id": _odd_id(dice), "parent_id": None, "path": "p"}}), ()),
        (as_json(good | {"data": {"id": 1, "parent_id": "x", "path": ["p"]}}), ()),
        (as_json(good | {"data": good["data"] | {"token": "a-secret"}}), ()),
        (as_json(good | {"data": good["data"] | {"path": "glcbt-64_not-a-real-token-123"}}), ()),
        (as_json(builders.member(1, "emperor", group_id=1, root=root)), ()),
        (as_json(builders.member(1, group_id=1, expires_at="tomorrow", root=root)), ()),
        (b"{}", [("ce_specversion", b"1.0"), ("ce_type", b"\xff\xff")]),
        (b"{}", [("ce_specversion", b"1.0"), ("ce_type", b"group.set")] * 3),
        (b"nothing", [(f"header-{n}", dice.randbytes(20)) for n in range(300)]),
        (b"nothing", [("\u2603" * 50, b""), ("", b"empty name")]),
    ]
    return dice.choice(shapes)


def _odd_id(dice: Random) -> Any:
    return dice.choice([0, -1, 1.5, "1", True, None, 2**63, 10**400])


def _large(dice: Random) -> tuple[bytes | None, Headers]:
    return dice.choice(
        [
            (b"x" * MIB, ()),
            (b"[" * MIB, ()),
            (b'{"data":' * (MIB // 8), ()),
            (b'{"type":"group.set","data":' + b"[" * 5000 + b"]" * 5000 + b"}", ()),
            (b"{}", [("large", b"h" * MIB)]),
        ]
    )


def as_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()
