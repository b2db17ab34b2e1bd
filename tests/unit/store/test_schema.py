"""Keys and records as docs/redis.md has them: a contract with operators and other programs."""

import pytest

from projector.domain.views import ViewId
from projector.store import schema
from projector.store.schema import HEADER_BYTES, Version, ViewRecord

RECORD = b'200 0003 01a0c5e2f3b1 00000000a3f1 {"allowed_agents":[]}'


def test_keys_are_those_of_the_contract() -> None:
    assert schema.PARTITIONS_KEY == "allowed-agents:partitions"
    assert schema.record_key(ViewId("ab" * 32)) == "allowed-agents:token:" + "ab" * 32
    assert schema.record_key(ViewId("9")) == "allowed-agents:job:9"
    assert schema.job_key(9) == "allowed-agents:job:9"
    assert schema.partition_key(3) == "allowed-agents:partition:{3}"
    assert schema.facts_key(3) == "allowed-agents:facts:{3}"
    assert schema.activity_key(3) == "allowed-agents:activity:{3}"


def test_a_record_is_encoded_and_decoded_as_the_contract_says() -> None:
    version = Version(0x01A0C5E2F3B1, 0xA3F1)
    record = ViewRecord(200, 3, version, b'{"allowed_agents":[]}')
    assert record.encode() == RECORD
    assert ViewRecord.decode(RECORD) == record
    assert RECORD.index(b"{") == HEADER_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", RECORD[1:], RECORD[: HEADER_BYTES - 1], RECORD.replace(b"200", b"404"),
        RECORD.replace(b"0003", b"003"), RECORD.replace(b"a0c5", b"A0C5"), b" " + RECORD,
    ],
)  # fmt: skip
def test_anything_else_is_not_a_record(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a view record"):
        ViewRecord.decode(raw)


def test_newer_versions_are_greater_as_numbers_and_as_text() -> None:
    """The scripts compare the text."""
    versions = [Version(1, 9), Version(1, 10), Version(2, 0), Version(15, 1), Version(16, 0)]
    assert sorted(versions) == sorted(versions, key=str) == versions


@pytest.mark.parametrize(
    ("status", "body", "provisional"),
    [(401, b"", False), (401, b"{}", True), (200, b"{}", False), (503, b"{}", False)],
)
def test_a_401_with_a_body_is_provisional(status: int, body: bytes, provisional: bool) -> None:
    assert ViewRecord(status, 0, Version(1, 1), body).is_provisional is provisional
