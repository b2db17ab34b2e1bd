"""The schemas that other languages feed by: as committed, and as the code decides."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from projector.cli.main import app
from projector.contract import json_schemas
from projector.contract.files import contract
from projector.events import ci_access
from projector.events.cloudevents import decode_event
from projector.events.heartbeats import decode_heartbeat
from projector.events.model import EVENT_TYPES, HEARTBEAT, MAX_EVENT_BYTES, BadEvent, Topic
from projector.feed.event_file import decode_strictly
from tests import builders
from tests.strategies import WRONG, events, heartbeats, mutants, paths, replaced, without
from tests.unit.contract.validation import Validator
from tests.unit.events.test_cloudevents import BAD, PLANTED, VALID, binary

REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "docs"
CONTRACT = contract()


@cache
def validator(name: str) -> Any:
    return Validator(json_schemas.event(name))


def is_valid(event: dict[str, Any]) -> bool:
    """By the schema of its type, or by any: a type that is none must fit nowhere."""
    return any(validator(name).is_valid(event) for name in EVENT_TYPES)


def is_accepted(event: dict[str, Any]) -> bool:
    """By the code that workers decide with, without any warning."""
    return accepted_as(event) is not None


def accepted_as(event: dict[str, Any]) -> str | None:
    try:
        return decode_strictly(builders.record(event, topic=Topic.MEMBERSHIP)).type
    except BadEvent:
        return None


@given(events())
@settings(max_examples=300, deadline=None)
def test_whatever_is_valid_is_taken_by_schema_and_decoder_alike(event: dict[str, Any]) -> None:
    assert is_accepted(event)
    name = ".".join(event["type"].split(".")[-2:])
    validator(name).validate(event)
    assert decode_event(binary({k: v for k, v in event.items() if v is not None})) == decode_event(
        builders.record(event, topic=Topic.MEMBERSHIP)
    )


@given(mutants())
@settings(max_examples=500, deadline=None)
def test_the_schema_refuses_what_the_decoder_refuses_and_nothing_else(
    event: dict[str, Any],
) -> None:
    hypothesis.event("accepted" if is_accepted(event) else "refused")
    assert is_valid(event) == is_accepted(event)


ACCESS = {"impersonate": {"username": "a", "groups": ["b"], "extra": [{"key": "c", "val": ["d"]}]}}
ENTRIES = [{"id": 7, "access_as": ACCESS}, {"id": "a/b", "default_namespace": "c"}, {"id": 8}]
# Of every type an event with everything that is looked at.
FULL = {
    event["type"]: event | {"time": "2027-01-31", "sequence": "7"}
    for event in [
        *VALID,
        builders.configured(5, projects=ENTRIES, groups=[{"id": 3, "access_as": {"ci_job": {}}}]),
        builders.shared_agent(5, 3, projects=ENTRIES, groups=[{"id": 3, "access_as": None}]),
        builders.shared(5, 3, {"access_as": {"agent": {}}, "default_namespace": None}),
        builders.started(9, 7, environment={"name": "a", "slug": "a", "tier": "a"}),
    ]
}


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_schema_and_decoder_agree_whatever_one_part_of_an_event_is(name: str) -> None:
    for path in paths(FULL[name]):
        others = [replaced(FULL[name], path, part) for part in WRONG]
        for mutant in [without(FULL[name], path), *others]:
            assert validator(name).is_valid(mutant) == (accepted_as(mutant) == name), mutant


@pytest.mark.parametrize("event", [*VALID, *PLANTED], ids=lambda event: str(event["type"]))
def test_schema_and_decoder_agree_on_the_examples_of_other_tests(event: dict[str, Any]) -> None:
    assert is_valid(event) == is_accepted(event)


# JSON Schema takes 3.0 for an integer.
SAID = [e for e, _ in BAD if isinstance(e, dict) and e.get("data", {}).get("id") != 3.0]


@pytest.mark.parametrize("event", SAID, ids=lambda event: str(event)[-60:])
def test_what_other_tests_know_as_bad_is_refused_by_the_schema(event: dict[str, Any]) -> None:
    assert not is_valid(event)


def test_every_line_of_the_example_feed_is_valid() -> None:
    for line in (REPOSITORY / "examples" / "events.ndjson").read_text().splitlines():
        event = json.loads(line)
        validator(event["type"]).validate(event)


# heartbeats


def counts(heartbeat: dict[str, Any]) -> bool:
    """By the code of workers, as the last record under the key that it names, of 1 partition."""
    data = heartbeat.get("data")
    key = data.get("source") if isinstance(data, dict) else None
    record = builders.heartbeat_record(heartbeat, 2**63, key=str(key).encode())
    try:
        return bool(decode_heartbeat(record, partitions=1))
    except BadEvent:
        return False


def beat(**attributes: Any) -> dict[str, Any]:
    offsets = {topic: [7] for topic in Topic}
    return builders.heartbeat("acme", 4711, offsets, **attributes)


@given(heartbeats())
@settings(max_examples=200, deadline=None)
def test_valid_heartbeats_are_taken_by_schema_and_decoder_alike(heartbeat: dict[str, Any]) -> None:
    assert counts(heartbeat)
    validator(HEARTBEAT).validate(heartbeat)


@given(mutants(heartbeats()))
@settings(max_examples=500, deadline=None)
def test_broken_heartbeats_are_refused_by_schema_and_decoder_alike(
    heartbeat: dict[str, Any],
) -> None:
    hypothesis.event("counts" if counts(heartbeat) else "refused")
    hypothesis.assume(not is_unsaid(heartbeat))
    assert validator(HEARTBEAT).is_valid(heartbeat) == counts(heartbeat)


def is_unsaid(heartbeat: dict[str, Any]) -> bool:
    """Whether the schema takes the heartbeat, and the record's key is not its partitionkey."""
    key = heartbeat.get("partitionkey")
    is_valid = validator(HEARTBEAT).is_valid(heartbeat)
    return is_valid and key not in (None, heartbeat["data"]["source"])


def test_schema_and_decoder_agree_whatever_one_part_of_a_heartbeat_is() -> None:
    full = beat(time="2027-01-31", sequence="7")
    taken = 0
    for path in paths(full):
        others = [replaced(full, path, part) for part in WRONG]
        for mutant in [without(full, path), *others]:
            assert validator(HEARTBEAT).is_valid(mutant) == counts(mutant), mutant
            taken += counts(mutant)
    assert taken > 100


def test_a_heartbeat_is_no_event_and_an_event_no_heartbeat() -> None:
    assert not is_valid(beat())
    assert not any(validator(HEARTBEAT).is_valid(event) for event in VALID)


HEARTBEATS_UNSAID = {
    "key is the text of": beat(partitionkey="other"),
    "for each partition": replaced(beat(), ("data", "offsets", "membership"), [7, 7]),
    "earlier heartbeat": replaced(beat(), ("data", "after"), 2**63 - 1),
}


@pytest.mark.parametrize("what", HEARTBEATS_UNSAID)
def test_what_no_schema_can_say_of_a_heartbeat_is_listed(what: str) -> None:
    heartbeat = HEARTBEATS_UNSAID[what]
    assert validator(HEARTBEAT).is_valid(heartbeat)
    with pytest.raises(BadEvent):
        decode_heartbeat(builders.heartbeat_record(heartbeat, 4712, key=b"acme"), partitions=1)
    assert any(what in sentence for sentence in json_schemas.UNSAID)


# what no schema can say: taken by the schema, refused by the decoder (or the other way round)

DEEP: Any = 1
for _ in range(70):
    DEEP = {"a": DEEP}
MANY = [{"id": 1}] * ci_access.MAX_ENTRIES + [{"id": 0}]
UNSAID = {
    "bytes": builders.group(3, path="x" * MAX_EVENT_BYTES),
    "inside one another": builders.group(3, x=1)
    | {"data": builders.group(3)["data"] | {"x": DEEP}},
    "integers": builders.event("group.removed", {"id": 3.0}),
    "day": builders.group(3, time="2027-02-30"),
}


@pytest.mark.parametrize("what", UNSAID)
def test_what_no_schema_can_say_is_listed(what: str) -> None:
    assert is_valid(UNSAID[what])
    assert not is_accepted(UNSAID[what])
    assert any(what in sentence for sentence in json_schemas.UNSAID)


def test_entries_behind_the_last_that_is_read_are_checked_by_the_schema_alone() -> None:
    event = builders.configured(5, projects=MANY)
    assert is_accepted(event)
    assert not is_valid(event)


# as files


def test_the_committed_files_are_what_the_code_generates() -> None:
    """`make schemas` writes them anew."""
    generated = CONTRACT
    found = {"asyncapi.yaml", *(f"schemas/{path.name}" for path in (DOCS / "schemas").iterdir())}
    assert found == set(generated)
    for name, text in generated.items():
        assert (DOCS / name).read_text() == text, f"docs/{name} is not up to date"


def test_the_command_writes_every_file_and_prints_asyncapi(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["schemas", str(tmp_path / "new")])
    assert (done.exit_code, done.output) == (0, f"19 files written to {tmp_path / 'new'}\n")
    for name, text in CONTRACT.items():
        assert (tmp_path / "new" / name).read_text() == text
    assert CliRunner().invoke(app, ["schemas"]).stdout == CONTRACT["asyncapi.yaml"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["schemas", str(tmp_path / "file")])
    assert done.exit_code == 2
    assert str(tmp_path / "file") in done.stderr


def test_the_examples_of_the_contract_are_those_of_the_documentation() -> None:
    text = (DOCS / "events.md").read_text()
    types = text[text.index("## Types") : text.index("## In other languages")]
    documented = [line for line in types.splitlines() if line.startswith('{"specversion"')]
    shipped = (REPOSITORY / "src" / "projector" / "examples.ndjson").read_text()
    assert shipped.splitlines() == documented


@pytest.mark.parametrize("name", json_schemas.TYPES)
def test_a_schema_file_is_whole_and_its_examples_keep_to_it(name: str) -> None:
    schema = json_schemas.event(name)
    Draft202012Validator.check_schema(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        validator(name).validate(example)


def test_no_pattern_needs_more_than_every_language_has() -> None:
    """No look-around, no flags, no classes that mean something else elsewhere."""
    patterns = re.findall(r'"pattern": ("[^\n]*")', "".join(CONTRACT.values()))
    assert patterns
    for pattern in map(json.loads, patterns):
        assert not re.search(r"\(\?|\\[^.]", pattern), pattern
