"""Which dead letters can be replayed, and what is sent then."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from projector.events.model import BadEvent, KafkaRecord, ReplayPosition, Topic
from projector.events.partitioning import partition_of
from projector.events.replay_header import HEADER
from projector.kafka.dead_letters import PREFIX, DeadLetter, compose_dead_letter
from projector.operators.dead_letters.letters import Letter, LetterId
from projector.operators.dead_letters.replay import Replay, prepare_replay
from tests import builders
from tests.builders import NOW

PARTITIONS = 4
HOME = partition_of("3", PARTITIONS)
RETENTION = 7 * 24 * 3600 * 1000
MEMBER = builders.member(1, group_id=3)
GONE = {"user_id": 1, "group_id": 3}
TOKEN = "glcbt-64_abcdefghijklmnopqrst"


def record(message: Any, **more: Any) -> KafkaRecord:
    return builders.record(message, 41, partition=HOME)._replace(**more)


def letter(original: KafkaRecord) -> Letter:
    """The letter about `original`, as it comes back from Kafka."""
    key, value, headers = compose_dead_letter(DeadLetter(original, "because"), datetime.now(UTC))
    return Letter(LetterId(0, 7), NOW, key, value, tuple(headers))


def prepared(
    original: KafkaRecord, corrected: dict[str, Any] | None = None, now: int = NOW
) -> Replay:
    event = None if corrected is None else json.dumps(corrected).encode()
    return prepare_replay(letter(original), event, PARTITIONS, RETENTION, now)


def refusal(original: KafkaRecord, corrected: dict[str, Any] | None = None, now: int = NOW) -> str:
    with pytest.raises(BadEvent) as refused:
        prepared(original, corrected, now)
    return str(refused.value)


def test_an_original_is_sent_as_it_was_and_ranks_where_it_stood() -> None:
    headers = (("trace", b"\xff"), ("trace", None))
    original = record(MEMBER, headers=headers)
    replay = prepared(original)
    assert (replay.topic, replay.partition) == (Topic.MEMBERSHIP, HOME)
    assert (replay.value, replay.headers) == (original.value, headers)
    assert replay.position == ReplayPosition(41, NOW)


def test_a_mended_event_takes_the_originals_place_and_none_of_its_headers() -> None:
    original = record(b"{", headers=(("ce_specversion", b"1.0"),))
    replay = prepared(original, MEMBER)
    assert json.loads(replay.value) == MEMBER
    assert replay.headers == (("content-type", b"application/cloudevents+json"),)
    assert replay.position == ReplayPosition(41, NOW)


@pytest.mark.parametrize("partition", [HOME, (HOME + 1) % PARTITIONS])
def test_as_a_new_event_it_has_no_position_wherever_the_original_was(partition: int) -> None:
    original = record(MEMBER, headers=((HEADER, b"17 1234567890123"),))._replace(
        partition=partition
    )
    replay = prepare_replay(letter(original), None, PARTITIONS, RETENTION, NOW, as_new=True)
    assert (replay.topic, replay.partition) == (Topic.MEMBERSHIP, HOME)
    assert (replay.position, replay.headers) == (None, ())


def test_a_replay_of_a_replay_ranks_where_the_first_original_stood() -> None:
    again = record(MEMBER, headers=((HEADER, b"17 1234567890123"),))
    replay = prepared(again, now=1234567890123)
    assert replay.position == ReplayPosition(17, 1234567890123)
    assert replay.headers == ()


def test_an_original_that_names_letters_headers_itself_cannot_forge_them() -> None:
    forged = tuple((PREFIX + name, b"0") for name in ("offset", "timestamp", "partition"))
    assert prepared(record(MEMBER, headers=forged)).position == ReplayPosition(41, NOW)


@pytest.mark.parametrize(
    ("original", "says"),
    [
        (record(b"{"), "not JSON"),
        (record(None), "no value"),
        (record(MEMBER | {"note": TOKEN}), "redacted"),
        (record(MEMBER, headers=(("trace", TOKEN.encode()),)), "redacted"),
        (record(json.dumps(MEMBER).encode() + b" " * 2**20 + b"x"), "bytes"),
        (record(json.dumps(MEMBER).encode()[:-1] + b" " * 2**20 + b"}"), "bytes only"),
        (record(builders.event("member.removed", GONE, time="noon")), "RFC 3339"),
    ],
    ids=["broken", "empty", "token", "token in header", "cut", "cut within", "only reported"],
)
def test_what_cannot_be_sent_as_it_is_must_be_mended(original: KafkaRecord, says: str) -> None:
    if says == "bytes":
        assert prepared(original).position, "what was cut off were blanks"
        return
    reason = refusal(original)
    assert says in reason
    assert reason.endswith("give the whole event, corrected, with --event FILE")
    assert "glcbt" not in reason
    assert prepared(original, MEMBER).position == ReplayPosition(41, NOW)


@pytest.mark.parametrize(
    ("original", "corrected", "says"),
    [
        (
            builders.group(3, path=7),
            builders.group(4),
            "about group 3, the corrected event about group 4",
        ),
        (
            builders.group(3, path=7),
            builders.project(3),
            "about group 3, the corrected event about project",
        ),
        (
            builders.agent(5, 7, time="?"),
            builders.configured(5),
            "about the configuration of agent 5",
        ),
        (
            builders.member(1, "boss", group_id=3),
            builders.member(2, group_id=3),
            "of user 2 in group 3",
        ),
        (
            builders.member(1, "boss", group_id=3),
            builders.member(1, project_id=3),
            "in project 3 via",
        ),
        (builders.member(1, "boss", group_id=3), MEMBER | {"type": "x.member.set"}, None),
        (builders.group(3, path=7), builders.removed("group", 3), None),
        (builders.member(1, group_id="3"), MEMBER, None),
        (builders.member(1, group_id=3, via="x" * 256), MEMBER, None),
        (MEMBER | {"type": "members.set"}, MEMBER, None),
    ],
)
def test_a_mended_event_is_about_the_originals_thing_where_that_can_be_read(
    original: dict[str, Any], corrected: dict[str, Any], says: str | None
) -> None:
    """Elsewhere it would rank in the place of something else."""
    if says is None:
        assert prepared(record(original), corrected).position == ReplayPosition(41, NOW)
    else:
        assert says in refusal(record(original), corrected)


def test_a_mended_event_that_is_none_is_refused() -> None:
    assert "role" in refusal(record(b"{"), builders.member(1, "boss", group_id=3))
    assert "RFC 3339" in refusal(record(b"{"), builders.removed("group", 3, time="noon"))


@pytest.mark.parametrize(
    "misrouted",
    [{"partition": (HOME + 1) % PARTITIONS}, {"topic": Topic.AGENT_CONFIG}],
    ids=["partition", "topic"],
)
def test_a_misrouted_original_comes_as_new_and_only_with_a_sequence(
    misrouted: dict[str, Any],
) -> None:
    assert "without a `sequence`" in refusal(record(MEMBER, **misrouted))
    replay = prepared(record(MEMBER | {"sequence": "2"}, **misrouted))
    assert (replay.topic, replay.partition, replay.position) == (Topic.MEMBERSHIP, HOME, None)


def test_an_event_mended_to_belong_elsewhere_comes_as_new_and_only_with_a_sequence() -> None:
    other = next(str(n) for n in range(4, 99) if partition_of(str(n), PARTITIONS) != HOME)
    assert "without a `sequence`" in refusal(record(MEMBER), MEMBER | {"partitionkey": other})
    corrected = MEMBER | {"partitionkey": other, "sequence": "2"}
    replay = prepared(record(MEMBER), corrected)
    assert (replay.partition, replay.position) == (partition_of(other, PARTITIONS), None)


def test_a_broadcast_stays_in_its_partition() -> None:
    elsewhere = (HOME + 1) % PARTITIONS
    replay = prepared(record(builders.user(1), partition=elsewhere))
    assert (replay.partition, replay.position) == (elsewhere, ReplayPosition(41, NOW))
    assert "no partition 9" in refusal(record(builders.user(1), partition=9))


def test_what_came_too_long_ago_is_refused_but_revokes() -> None:
    """Also where it would come as new: what it could contradict may be forgotten."""
    late = NOW + RETENTION + 1
    assert "too late" in refusal(record(MEMBER), now=late)
    misrouted = record(MEMBER | {"sequence": "2"}, partition=(HOME + 1) % PARTITIONS)
    assert "too late" in refusal(misrouted, now=late)
    assert prepared(record(builders.removed("group", 3)), now=late).position == ReplayPosition(
        41, NOW
    )


@pytest.mark.parametrize("missing", ["topic", "partition", "offset", "timestamp"])
def test_a_letter_that_does_not_say_where_it_came_from_is_refused(missing: str) -> None:
    whole = letter(record(MEMBER))
    headers = tuple(header for header in whole.headers if header[0] != PREFIX + missing)
    with pytest.raises(BadEvent, match="does not name the original's position"):
        prepare_replay(whole._replace(headers=headers), None, PARTITIONS, RETENTION, NOW)


def test_a_start_without_a_digest_is_replayed_and_corrects_one_with_a_bad_digest() -> None:
    signed = builders.started(9, 7, token=None)
    assert json.loads(prepared(record(signed)).value) == signed
    bad = builders.started(9, 7)
    bad["data"]["token_sha256"] = "none"
    replay = prepared(record(bad), signed)
    assert (replay.topic, replay.position) == (Topic.JOB_LIFECYCLE, ReplayPosition(41, NOW))
