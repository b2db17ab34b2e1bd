"""The overlay: its lines, and which records it holds back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from projector.store import overlay
from projector.store.overlay import HeldBack
from projector.store.schema import Version, ViewRecord

VERSION = Version(0x1A0C5E2F3B1, 0xA3F1)
ids = st.integers(1, 3)


def body_of(agents: dict[int, int], project: int, groups: list[int], user: int) -> dict[str, Any]:
    """A body with these agents, each with its configuration project."""
    return {
        "allowed_agents": [
            {"id": agent, "config_project": {"id": config}, "configuration": {"id": 1}}
            for agent, config in agents.items()
        ],
        "job": {"id": 1},
        "pipeline": {"id": 1},
        "project": {"id": project, "groups": [{"id": group} for group in groups]},
        "user": {"id": user, "username": "root", "roles_in_project": []},
    }


BODY = body_of({7: 3}, 123, [12, 4], 5)


def record(
    body: object = BODY, status: int = 200, partition: int = 3, **version: int
) -> ViewRecord:
    older = VERSION._replace(revision=VERSION.revision - 1)._replace(**version)
    return ViewRecord(status, partition, older, json.dumps(body).encode())


def naming(*names: str) -> bytes:
    return f"{overlay.encode_line(3, VERSION, names)}\n".encode()


def test_a_line_reads_like_a_records_head_and_its_names() -> None:
    line = "0003 01a0c5e2f3b1 00000000a3f1 agent:7 group:12 user:5"
    assert overlay.encode_line(3, VERSION, {"group:12", "user:5", "agent:7"}) == line
    held = HeldBack(VERSION, frozenset({"group:12", "user:5", "agent:7"}))
    assert overlay.decode(f"{line}\n".encode()) == {3: [held]}


def test_each_change_holds_back_what_is_older_than_itself() -> None:
    later = VERSION._replace(revision=VERSION.revision + 2)
    lines = overlay.encode_lines(3, {"agent:7": VERSION, "user:5": later, "user:6": VERSION})
    assert overlay.decode(lines.encode()) == {
        3: [
            HeldBack(VERSION, frozenset({"agent:7", "user:6"})),
            HeldBack(later, frozenset({"user:5"})),
        ]
    }
    between = record(revision=VERSION.revision)
    for name, is_held in (("agent:7", False), ("user:5", True)):
        names = {name: later if is_held else VERSION, "user:99": later}
        assert overlay.is_held_back(between, overlay.encode_lines(3, names).encode()) == is_held


@pytest.mark.parametrize(
    "line",
    [
        "", "x", "0003", "0003 01a0c5e2f3b1 00000000a3f1", "0003 01a0c5e2f3b1 00000000a3f1 ",
        "003 01a0c5e2f3b1 00000000a3f1 agent:7", "0003 01a0c5e2f3b1 agent:7",
        "0003 01A0C5E2F3B1 00000000a3f1 agent:7", "0003 ffffffffffff 00000000a3f1 agent:7",
        "0003 f 0 agent:7", "0003 01a0c5e2f3b1 00000000a3f1 agent:",
        "0003 01a0c5e2f3b1 00000000a3f1 *", "0003 01a0c5e2f3b1 00000000a3f1  agent:7", "\xff",
    ],
)  # fmt: skip
def test_a_malformed_line_does_not_count_and_the_others_do(line: str) -> None:
    other = overlay.encode_line(1, VERSION, ["user:1"])
    raw = f"{line}\n{other}\n".encode("latin-1")
    with capture_logs() as logged:
        assert overlay.decode(raw).keys() == {1}
        overlay.decode(raw)
    assert [entry["event"] for entry in logged] == ["overlay line malformed"], "once"


@pytest.mark.parametrize("name", ["agent:7", "project:123", "group:12", "group:4", "user:5"])
def test_a_record_that_names_what_changes_is_held_back(name: str) -> None:
    assert overlay.is_held_back(record(), naming("agent:99", name))


@pytest.mark.parametrize(
    "name",
    ["agent:3", "project:3", "agent:70", "project:7", "group:123", "user:1", "job:1", "pipeline:1"],
)
def test_a_record_that_does_not_name_it_is_answered(name: str) -> None:
    assert not overlay.is_held_back(record(), naming(name))


@pytest.mark.parametrize(
    "other",
    [
        record(revision=VERSION.revision), record(epoch=VERSION.epoch + 1, revision=0),
        record(partition=2), record(status=401), record(status=403), record(status=503),
    ],
    ids=["as new", "newer claim", "other partition", "401", "403", "503"],
)  # fmt: skip
def test_a_newer_record_or_one_without_a_list_is_answered(other: ViewRecord) -> None:
    assert not overlay.is_held_back(other, naming("agent:7"))


@pytest.mark.parametrize("body", ["", {"allowed_agents": []}, BODY | {"user": {}}], ids=repr)
def test_a_list_that_cannot_be_read_is_held_back(body: object) -> None:
    assert overlay.is_held_back(record(body), naming("agent:99"))


@given(
    st.dictionaries(ids, ids, max_size=2), ids, st.lists(ids, max_size=2), ids,
    st.sets(st.builds("{}:{}".format, st.sampled_from(["agent", "group", "project", "user"]), ids)),
)  # fmt: skip
def test_it_is_held_back_exactly_if_it_names_something(
    agents: dict[int, int], project: int, groups: list[int], user: int, names: set[str]
) -> None:
    own = {f"user:{user}", f"project:{project}"}
    own |= {f"group:{group}" for group in groups} | {f"agent:{agent}" for agent in agents}
    held = overlay.is_held_back(record(body_of(agents, project, groups, user)), naming(*names))
    assert held == bool(own & names)
