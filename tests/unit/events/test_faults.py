"""All faults of an event, each in a sentence."""

from typing import Any

import pytest

from projector.events.cloudevents import decode_event
from projector.events.faults import MAX_FAULTS
from projector.events.model import BadEvent
from tests import builders
from tests.builders import record


def faults(message: dict[str, Any]) -> list[str]:
    with pytest.raises(BadEvent) as refused:
        decode_event(record(message))
    return str(refused.value).split("; ")


def test_every_fault_of_the_data_is_named() -> None:
    data = {"user_id": "4", "via": "", "expires_at": "noon"}
    assert faults(builders.event("member.set", data)) == [
        "`data.user_id` must be a whole number, and is text",
        "`data.via` must not be empty",
        "`data.role` is missing",
        "`data.expires_at` must be a time: RFC 3339 with an offset, or a date",
    ]


def test_what_only_several_fields_show_is_named_once_each_of_them_is_good() -> None:
    assert faults(builders.event("member.set", {"user_id": 4, "role": "guest"})) == [
        "`data` must have either `group_id` or `project_id`"
    ]


def test_every_fault_of_the_attributes_is_named() -> None:
    message = builders.group(3, specversion="2.0", source=7) | {"partitionkey": None}
    del message["id"]
    assert faults(message) == [
        "`event.specversion` has the unknown value '2.0'",
        "`event.id` is missing",
        "`event.source` must be text, and is a whole number",
    ]


def test_faults_within_objects_and_lists_have_their_places() -> None:
    data = builders.started(9, 7)["data"] | {
        "user": {"id": True}, "environment": [], "ref_protected": "no",
    }  # fmt: skip
    assert faults(builders.event("job.started", data)) == [
        "`data.user.id` must be a whole number, and is true or false",
        "`data.user.username` is missing",
        "`data.ref_protected` must be true or false, and is text",
        "`data.environment` must be an object or null, and is a list",
    ]
    shared = builders.configured(5, projects=[{"id": 7}, 8], groups="all")
    assert faults(shared) == [
        "`data.config.ci_access.projects[1]` must be an object, and is a whole number",
        "`data.config.ci_access.groups` must be a list or null, and is text",
    ]


def test_the_first_few_faults_are_enough() -> None:
    data = {"user": {}, "environment": {"name": "", "slug": "", "tier": ""}}
    assert len(faults(builders.event("job.started", data))) == MAX_FAULTS


def test_a_fault_of_the_whole_value_names_the_value() -> None:
    message = builders.group(3) | {"data": []}
    assert faults(message) == ["`data` must be an object, and is a list"]
