"""Attributes in headers: their mode, names in any case, and contradictions."""

import pytest

from projector.events.header_attributes import all_attributes, is_binary, read_attributes
from projector.events.model import BadEvent
from projector.events.redaction import Headers

VERSION = ("ce_specversion", b"1.0")


@pytest.mark.parametrize(
    ("headers", "binary"),
    [
        ((), False),
        ((("ce_type", b"group.set"),), False),
        ((VERSION,), True),
        ((("Ce_SpecVersion", b"1.0"),), True),
        ((VERSION, ("content-type", b"application/json")), True),
        ((VERSION, ("content-type", None)), True),
        ((VERSION, ("content-type", b"application/cloudevents")), False),
        ((VERSION, ("Content-Type", b"application/CloudEvents-batch+json")), False),
        ((VERSION, ("content-type", b"application/cloudevents+json"),
          ("content-type", b"application/json")), False),
    ],
)  # fmt: skip
def test_the_mode_is_told_by_version_and_media_type(headers: Headers, binary: bool) -> None:
    assert is_binary(headers) == binary


def test_attributes_are_read_whatever_the_case_of_their_headers() -> None:
    headers = (VERSION, ("CE_ID", b"1"), ("ce_other", b"\xff"), ("trace", b"x"), ("ce_time", None))
    assert read_attributes(headers) == {"specversion": "1.0", "id": "1", "time": ""}


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ((("ce_id", b"\xff"),), "the header ce_id is not UTF-8"),
        ((("ce_id", b"1"), ("ce_id", b"2")), "the header ce_id is there more than once"),
        ((("ce_id", b"1"), ("CE_ID", b"2")), "the header CE_ID is there more than once"),
    ],
)
def test_what_is_not_clear_is_refused(headers: Headers, says: str) -> None:
    with pytest.raises(BadEvent, match=says):
        read_attributes(headers)
    assert len(all_attributes(headers)) == len(headers)
