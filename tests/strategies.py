"""Hypothesis strategies for events and heartbeats: valid ones of every type, and broken ones.

Shares no code with the readers of events.
"""

import copy
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import hypothesis.strategies as st
from hypothesis import assume

from projector.events.model import EVENT_TYPES, MAX_ID, ROLES
from tests import builders

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
DIGEST = builders.digest("a")

# valid events

ids = st.integers(1, MAX_ID) | st.integers(1, 20)
# Hypothesis also draws literals of the code, such as the prefix of tokens.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: "glcbt" not in text and not text.lower().endswith("token")
)
days = st.dates().map(str)
moments = st.builds(
    "{}{}{:%H:%M:%S}{}{}".format,
    days,
    st.sampled_from("Tt "),
    st.times(),
    st.sampled_from(["", ".5", ".123456789012"]),
    st.sampled_from(["Z", "z", "+01:00", "-0930", "+23:59", "-00:00"]),
)
times = days | moments
extras = st.dictionaries(texts, st.none() | st.booleans() | texts | st.floats(0.1, 0.9), max_size=2)


def optional(shape: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | shape


def fields(needed: dict[str, Any], **more: Any) -> st.SearchStrategy[dict[str, Any]]:
    """An object with these fields, perhaps those in `more`, and perhaps unknown ones."""
    known = {*needed, *more, *ACCESS, "group_id", "project_id"}
    strangers = extras.map(lambda found: {k: v for k, v in found.items() if is_new(k, known)})
    shapes = st.fixed_dictionaries(needed, optional=more)
    return st.builds(lambda own, other: other | own, shapes, strangers)


def is_new(name: str, known: set[str]) -> bool:
    """Return whether a name is unlike all known ones, which it might be meant to be."""
    return not get_close_matches(name.lower(), known, 1, 0.7)


ACCESS = {
    "id", "default_namespace", "access_as", "environments", "protected_branches_only",
    "resource_management",
}  # fmt: skip
objects = st.dictionaries(texts, texts, max_size=2)
impersonated = fields(
    {"username": texts},
    groups=optional(st.lists(texts, max_size=2)),
    uid=optional(texts),
    extra=optional(
        st.lists(fields({"key": texts, "val": st.lists(texts, min_size=1)}), max_size=2)
    ),
)
identities = st.one_of(
    st.fixed_dictionaries({"agent": objects}, optional={"ci_job": st.none()}),
    st.fixed_dictionaries({"ci_job": objects}, optional={"impersonate": st.none()}),
    st.fixed_dictionaries({"impersonate": impersonated}, optional={"agent": st.none()}),
)
configurations = fields({}, default_namespace=optional(texts), access_as=optional(identities))
entries = st.builds(lambda id_, rest: {"id": id_} | rest, ids | texts, configurations)
lists = optional(st.lists(entries, max_size=3))
files = fields({}, ci_access=optional(fields({}, projects=lists, groups=lists)))
roles = st.integers(0, 50) | st.sampled_from(list(ROLES)).flatmap(
    lambda role: st.sampled_from([role, role.upper(), role.title()])
)
digests = st.sampled_from([DIGEST, DIGEST.upper()])
scopes = st.one_of(
    st.fixed_dictionaries({"group_id": ids}, optional={"project_id": st.none()}),
    st.fixed_dictionaries({"project_id": ids}, optional={"group_id": st.none()}),
)


def membership(needed: dict[str, Any], **more: Any) -> st.SearchStrategy[dict[str, Any]]:
    via = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)
    rest = fields({"user_id": ids, **needed}, via=via, **more)
    return st.builds(lambda one, other: one | other, rest, scopes)


numbered = fields({"id": ids})
named = {"id": ids, "name": texts, "project_id": ids}
DATA: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    **{
        name: numbered
        for name in EVENT_TYPES
        if name.endswith(("removed", "canceling", "finished"))
    },
    "group.set": fields({"id": ids, "parent_id": optional(ids), "path": texts}),
    "project.set": fields({"id": ids, "group_id": optional(ids), "path": texts}),
    "member.set": membership({"role": roles}, expires_at=optional(times)),
    "member.removed": membership({}),
    "user.set": fields({"id": ids, "username": texts, "state": texts}),
    "agent.set": fields(named),
    "agent.configured": fields({"id": ids, "config": files}),
    "shared-agent.set": fields({**named, "config": files}),
    "instance-agent.set": fields({**named, "configuration": configurations}),
    "job.started": fields(
        {
            "id": ids, "project_id": ids, "pipeline_id": ids,
            "user": fields({"id": ids, "username": texts}), "ref_protected": st.booleans(),
            "expires_at": times,
        },
        environment=optional(fields({"name": texts, "slug": texts, "tier": texts})),
        token_sha256=optional(digests),
    ),
}  # fmt: skip


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid event of any type, with optional and unknown fields."""
    name = draw(st.sampled_from(list(EVENT_TYPES)))
    prefix = draw(st.sampled_from(["", "com.example.", "."]))
    attributes = draw(
        st.fixed_dictionaries(
            {"id": texts, "source": texts, "partitionkey": st.integers(1, 10**19 - 1).map(str)},
            optional={
                "time": optional(times),
                "sequence": optional(st.from_regex(r"\A[0-9]{1,40}\Z")),
                "subject": texts,
            },
        )
    )
    return {"specversion": "1.0", "type": prefix + name, **attributes, "data": draw(DATA[name])}


# The schema does not compare the number of offsets with the number of partitions, here 1.
next_offsets = st.lists(st.integers(0, MAX_ID), min_size=1, max_size=1)
vouchers = fields(
    {
        "source": st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z"),
        "offsets": fields(
            {
                "membership": next_offsets,
                "agent-config": next_offsets,
                "job-lifecycle": next_offsets,
            }
        ),
    },
    after=optional(st.integers(0, MAX_ID)),
)


@st.composite
def heartbeats(draw: st.DrawFn) -> dict[str, Any]:
    """A valid heartbeat, with optional and unknown fields."""
    prefix = draw(st.sampled_from(["", "com.example.", "."]))
    attributes = draw(
        st.fixed_dictionaries(
            {"id": texts, "source": texts}, optional={"time": optional(times), "subject": texts}
        )
    )
    data = draw(vouchers)
    if draw(st.booleans()):
        attributes["partitionkey"] = data["source"]
    kind = f"{prefix}source.heartbeat"
    return {"specversion": "1.0", "type": kind, **attributes, "data": data}


# broken events

WRONG: list[Any] = [
    None, True, False, 0, -1, 1, 51, 2**63, 2**63 - 1, 1.5, "", "1", "0", "x", [], {}, [1],
    {"a": 1},
    "developer", "DEVELOPER", "boss", "Owner ", "direct", "x" * 256, "3\n", "٣", "03", "-1",
    "9" * 19, "9" * 20, "9" * 40, "9" * 41, DIGEST, DIGEST[1:], DIGEST + "0", "g" + DIGEST[1:],
    "2027-01-31T12:00:00+0100", "2027-01-31 12:00:00.5z", "2027-01-31t12:00:00-01:00",
    "2027-01-31", "2027-13-31", "2027-01-32", "2027-01-31T12:00:00", "2027-01-31T24:00:00Z",
    "2027-01-31T12:60:00Z", "2027-01-31T12:00:60Z", "2027-01-31T12:00:00+24:00", "2027-1-31",
    "2027-01-31T12:00:00.Z", "2027-01-31\n", "tomorrow", "1.0", "0.3", "group.set",
    "xgroup.set",
    "job.finished", "source.heartbeat", "com.example.agent.set", "group.sett", TOKEN,
    f"x {TOKEN}", "glcbt-", "a glcbt-b",
    [TOKEN], {"a": [{"b": TOKEN}]}, {"token": 1}, {TOKEN: 1}, {"job-token": None},
    {"tokens": 1},
    {"agent": {}}, {"agent": {}, "ci_job": 5}, {"agent": {}, "ci_job": {}},
    {"agent": {}, "ciJob": None},
    {"ci_job": None, "ciJob": {}}, {"ciJob": {}}, {"impersonate": {}},
    {"impersonate": {"username": ""}},
    {"impersonate": {"username": "a", "extra": [{"key": "k", "val": []}]}},
    {"impersonate": {"username": "a", "extra": [{"key": "k", "val": [""], "Key": 1}]}},
    {"impersonate": {"username": "a", "groups": [""]}},
    {"impersonate": {"username": "a", "GROUPS": ["a"]}},
    [{"id": 0}], [{"id": "a"}], [{"id": 1, "access_as": {}}], [{"id": 1,
    "access_as": {"x": 1}}],
    [{"id": 1, "default_namespace": 5}], [{"id": 1, "default_namespace": "a",
    "defaultNamespace": "a"}],
    {"ci_access": {"projects": {}}}, {"ci_access": []}, {"ci_access": {"groups": [{}]}},
]  # fmt: skip
NAMES = st.sampled_from(
    ["token", "Job-Token", "CI_JOB_TOKEN", "tokens", "group_id", "project_id", "accessAs",
    "access_as",
     "default_namespace", "time", "sequence", "ciJob", "CI-JOB", "Environments",
     "protectedBranchesOnly", "protected-branches-only", TOKEN, "x"]
)  # fmt: skip


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children: Any = ()
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    for name, child in children:
        yield (*path, name)
        yield from paths(child, (*path, name))


def without(event: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """Return the event without the part at `path`."""
    mutant = copy.deepcopy(event)
    del _parent(mutant, path)[path[-1]]
    return mutant


def replaced(event: dict[str, Any], path: tuple[Any, ...], part: Any) -> dict[str, Any]:
    """Return the event with another part at `path`."""
    mutant = copy.deepcopy(event)
    _parent(mutant, path)[path[-1]] = copy.deepcopy(part)
    return mutant


def _parent(event: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        event = event[step]
    return event


@st.composite
def mutants(draw: st.DrawFn, whole: Any = None) -> dict[str, Any]:
    """An event with one or two of its parts removed, replaced or added."""
    event: dict[str, Any] = draw(events() if whole is None else whole)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(paths(event))))
        part = draw(st.sampled_from(WRONG))
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "remove":
                event = without(event, path)
            case "add" if isinstance(path[-1], str):
                event = replaced(event, (*path[:-1], draw(NAMES)), part)
            case _:
                event = replaced(event, path, part)
        assume(event)
    return event
