"""Causes of drawn and of chosen statuses: none exactly when all is well."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients.trusted_clock import JUMPED
from projector.errors import PartitionCountError
from projector.events.model import Topic
from projector.operators.diagnosis.causes import causes
from projector.operators.diagnosis.no_status import missing_status
from projector.operators.diagnosis.words import some_partitions
from projector.operators.source_status import SourceHealth, SourceStatus
from projector.operators.status_model import (
    Cause,
    Deployment,
    KafkaFault,
    KafkaTrouble,
    PartitionHealth,
    PartitionStatus,
    Severity,
    Status,
    StatusTotals,
    WorkerHealth,
    WorkerStatus,
)
from projector.store.activity import ActivityRates
from tests.unit.test_documents import REPOSITORY, anchors

NOW = 1_800_000_000_000
BOUND = 10.0
RATES = ActivityRates(0, 0, 0, 0, None, None, None)
AGES = {
    PartitionHealth.FRESH: 0.3, PartitionHealth.LATE: 5.0, PartitionHealth.STALE: 30.0,
    PartitionHealth.UNCLAIMED: None,
}  # fmt: skip
UNREACHABLE = KafkaTrouble(KafkaFault.UNREACHABLE, "Kafka at k:1 does not answer", NOW - 9000)
MISSING = KafkaTrouble(KafkaFault.TOPICS_MISSING, "missing in Kafka at k:1: a.membership", NOW)

TROUBLES = [KafkaTrouble(fault, "Kafka at k:1 does so", NOW - 9000) for fault in KafkaFault]


def partition(
    number: int, state: PartitionHealth = PartitionHealth.FRESH, owner: str = "a",
    damage: str | None = None, leaderless: list[Topic] | None = None,
    other_logs: list[Topic] | None = None, outage: str | None = None, letters: int = 0,
) -> PartitionStatus:  # fmt: skip
    claimed = owner if state is not PartitionHealth.UNCLAIMED else None
    return PartitionStatus(
        number, state, claimed, AGES[state], 7, 3, 5, 2, None, None, damage, leaderless or [],
        other_logs or [], outage, letters,
    )  # fmt: skip


def status(
    *partitions: PartitionStatus, sources: tuple[SourceStatus, ...] = (),
    trouble: KafkaTrouble | None = None, dead_letters: int | None = None,
) -> Status:  # fmt: skip
    owned: dict[str, list[PartitionStatus]] = {}
    for each in partitions:
        if each.owner:
            owned.setdefault(each.owner, []).append(each)
    waiting = {n for s in sources for n in s.waiting}
    count = {state: sum(p.state is state for p in partitions) for state in PartitionHealth}
    return Status(
        NOW, BOUND, list(partitions),
        [
            WorkerStatus(
                owner, [p.partition for p in theirs],
                min((p.age for p in theirs if p.age is not None), default=None),
                _health(theirs, waiting),
            )
            for owner, theirs in sorted(owned.items())
        ],
        StatusTotals(
            len(partitions), count[PartitionHealth.FRESH], count[PartitionHealth.LATE],
            count[PartitionHealth.STALE], count[PartitionHealth.UNCLAIMED], 0, 0, None, RATES,
        ),
        dead_letters, sources=list(sources), kafka_trouble=trouble,
        deployment=Deployment("redis://r:2", "k:1", "foo-", "1.0"),
    )  # fmt: skip


def _health(partitions: list[PartitionStatus], waiting: set[int]) -> WorkerHealth:
    if any(p.state is PartitionHealth.FRESH for p in partitions):
        return WorkerHealth.WORKING
    if any(p.partition in waiting for p in partitions):
        return WorkerHealth.WAITING
    if any(p.outage for p in partitions):
        return WorkerHealth.BEHIND
    return WorkerHealth.SILENT


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    count = draw(st.integers(0, 5))
    topics = st.lists(st.sampled_from(list(Topic)), unique=True)
    partitions = [
        partition(
            n, draw(st.sampled_from(list(PartitionHealth))), draw(st.sampled_from("abc")),
            draw(st.sampled_from([None, None, None, "damaged"])), draw(topics), draw(topics),
            draw(st.sampled_from([None, "Kafka: away", f"Redis: {JUMPED}"])),
            draw(st.sampled_from([0, 0, 3])),
        )
        for n in range(count)
    ]  # fmt: skip
    numbers = st.lists(st.integers(0, max(0, count - 1)), unique=True) if count else st.just([])
    sources = [
        SourceStatus(
            name, draw(st.sampled_from(list(SourceHealth))),
            draw(st.none() | st.floats(0, 1000)), draw(numbers), draw(numbers),
        )
        for name in draw(st.lists(st.sampled_from(["gitlab", "hr"]), unique=True))
    ]  # fmt: skip
    trouble = draw(st.sampled_from([None, *TROUBLES]))
    letters = draw(st.sampled_from([None, 0, 4]))
    found = status(*partitions, sources=tuple(sources), trouble=trouble, dead_letters=letters)
    # The status asks for it only then.
    refused = draw(st.sampled_from([None, None, "full"])) if not found.is_fresh else None
    return msgspec.structs.replace(found, refused_writes=refused)


@given(statuses())
def test_a_cause_beyond_a_notice_is_found_exactly_when_not_all_is_fresh(found: Status) -> None:
    grave = [c for c in causes(found) if c.severity is not Severity.NOTICE]
    assert bool(grave) is not found.is_fresh


@given(statuses())
def test_causes_come_worst_first_and_each_says_what_to_do(found: Status) -> None:
    order = list(Severity)
    listed = causes(found)
    assert [order.index(c.severity) for c in listed] == sorted(
        order.index(c.severity) for c in listed
    )
    for cause in listed:
        assert cause.what.endswith(".")
        assert cause.lookups.endswith(".")
        assert cause.advice.endswith(".")
        document, anchor = cause.runbook.split("#")
        assert anchor in anchors(REPOSITORY / "docs" / document)
        assert cause.since is None or 0 < cause.since <= NOW


@given(statuses())
def test_each_partition_that_is_not_fresh_has_one_cause(found: Status) -> None:
    explained = [number for cause in causes(found) for number in cause.partitions]
    assert sorted(explained) == [
        p.partition for p in found.partitions if p.state is not PartitionHealth.FRESH
    ]


@given(statuses())
def test_it_is_an_outage_exactly_when_no_lookup_is_answered(found: Status) -> None:
    listed = causes(found)
    outages = [c for c in listed if c.severity is Severity.OUTAGE]
    assert bool(outages) is (len(unanswered(found)) == len(found.partitions))
    assert all(c.lookups == "Lookups get 503." for c in outages)
    if outages:
        assert all(c in outages for c in listed if c.partitions)
        assert not any("are answered" in c.lookups for c in listed)


@given(statuses())
def test_lookups_are_said_to_be_answered_only_where_they_are(found: Status) -> None:
    refused = unanswered(found)
    for cause in causes(found):
        if "all others are answered" in cause.lookups:
            assert cause.lookups.startswith(f"Lookups of {some_partitions(refused)} and ")
        if cause.lookups.startswith("Lookups are answered"):
            assert not refused


@given(statuses())
def test_dead_letters_change_no_other_cause_and_come_last(found: Status) -> None:
    without = causes(msgspec.structs.replace(found, dead_letters=0))
    assert causes(msgspec.structs.replace(found, dead_letters=4))[:-1] == without


@given(statuses())
def test_no_sentence_changes_with_time_alone(found: Status) -> None:
    """People are told of a new sentence: an age in it would be new every second."""
    older = [
        msgspec.structs.replace(p, age=None if p.age is None else p.age + 7)
        for p in found.partitions
    ]
    sources = [
        msgspec.structs.replace(s, age=None if s.age is None else s.age + 7) for s in found.sources
    ]
    later = msgspec.structs.replace(found, at=NOW + 7000, partitions=older, sources=sources)
    assert [c.what for c in causes(later)] == [c.what for c in causes(found)]


def unanswered(found: Status) -> set[int]:
    refused = {PartitionHealth.STALE, PartitionHealth.UNCLAIMED}
    return {p.partition for p in found.partitions if p.state in refused}


@given(statuses())
def test_without_a_notice_all_is_well(found: Status) -> None:
    if not causes(found):
        assert found.is_fresh
        assert found.kafka_trouble is None
        assert not found.dead_letters


FRESH, LATE, STALE, UNCLAIMED = PartitionHealth


def names(found: Status) -> list[str]:
    return [cause.name for cause in causes(found)]


def only(found: Status) -> Cause:
    (cause,) = causes(found)
    return cause


def test_kafka_is_blamed_once_for_everything_that_waits_for_it() -> None:
    found = only(status(partition(0, STALE), partition(1, STALE, "b"), trouble=UNREACHABLE))
    assert found == Cause(
        "kafka-unreachable",
        Severity.OUTAGE,
        "Kafka cannot be reached.",
        NOW - 30_000,
        "Lookups get 503.",
        "Start Kafka, or repair the way to it; workers go on by themselves.",
        "runbook.md#kafka-unreachable",
        "Kafka at k:1 does not answer",
        [0, 1],
    )


def test_kafka_that_only_this_machine_cannot_reach_is_a_notice() -> None:
    found = only(status(partition(0), trouble=UNREACHABLE))
    assert (found.severity, found.what) == (
        Severity.NOTICE, "Kafka cannot be reached from here, but workers go on.",
    )  # fmt: skip


def test_one_worker_that_died_is_named_with_its_partitions_and_since_when() -> None:
    found = only(status(partition(0), partition(1, LATE, "b"), partition(2, LATE, "b")))
    assert (found.name, found.what, found.detail) == (
        "worker-gone", "The worker b is silent.", "b: partitions 1 and 2",
    )  # fmt: skip
    assert found.since == NOW - 5000
    assert found.lookups == "Lookups are answered until a partition is more than 10 s behind."


def cut_off(
    *numbers: int, owner: str = "a", outage: str = "Kafka: no broker answers"
) -> list[PartitionStatus]:
    return [partition(n, LATE, owner, outage=outage) for n in numbers]


def test_workers_that_kafka_does_not_answer_are_not_taken_for_dead() -> None:
    found = only(status(*cut_off(0, 1), *cut_off(2, owner="b")))
    assert (found.name, found.what) == (
        "workers-cut-off", "All 2 workers wait for Kafka.",
    )  # fmt: skip
    assert found.detail == "Kafka: no broker answers; a: partitions 0 and 1; b: partition 2"
    assert found.partitions == [0, 1, 2]


def test_one_worker_that_is_cut_off_is_named_beside_one_that_died() -> None:
    found = causes(status(*cut_off(0), partition(1, LATE, "b"), partition(2, owner="c")))
    assert [(c.name, c.what) for c in found] == [
        ("worker-gone", "The worker b is silent."),
        ("worker-cut-off", "The worker a waits for Kafka."),
    ]


def test_kafka_that_is_away_from_here_too_is_the_cause_and_not_the_workers() -> None:
    assert names(status(*cut_off(0), trouble=UNREACHABLE)) == ["kafka-unreachable"]


def test_workers_go_on_without_kafka_only_if_they_have_stamped_since() -> None:
    """In its first seconds an outage of Kafka was called one of this machine alone."""
    fresh = partition(0)
    assert fresh.age == 0.3
    for lasted, what in (
        (0.5, "Kafka cannot be reached."),
        (2.0, "Kafka cannot be reached from here, but workers go on."),
    ):
        trouble = msgspec.structs.replace(UNREACHABLE, lasted=lasted)
        found = only(status(fresh, trouble=trouble))
        assert (found.severity, found.what) == (Severity.NOTICE, what)


@pytest.mark.parametrize("fault", [KafkaFault.REFUSED, KafkaFault.TOPICS_UNUSABLE])
def test_a_worker_that_works_proves_a_kafka_that_refuses_this_command_at_once(
    fault: KafkaFault,
) -> None:
    """A single `projector status` with a wrong password took the partitions of a dead worker."""
    trouble = KafkaTrouble(fault, "Kafka at k:1 does so", None, 0.3)
    gone, refused = causes(status(partition(0), partition(1, STALE, "b"), trouble=trouble))
    assert (gone.name, gone.partitions) == ("worker-gone", [1])
    assert (refused.severity, refused.lookups) == (
        Severity.NOTICE, "This changes nothing for lookups.",
    )  # fmt: skip


def test_a_kafka_that_has_just_gone_does_not_hide_a_dead_worker() -> None:
    trouble = msgspec.structs.replace(UNREACHABLE, lasted=0.3)
    parts = partition(0), partition(1, STALE, "b"), *cut_off(2, owner="c")
    found = {c.name: c.partitions for c in causes(status(*parts, trouble=trouble))}
    assert found == {"worker-gone": [1], "kafka-unreachable": [2]}


def test_a_worker_that_waits_for_a_source_proves_no_kafka_for_two_seconds() -> None:
    """It writes so for as long after it had Kafka's records."""
    silent = SourceStatus("gitlab", SourceHealth.SILENT, 30.0, [0])
    for lasted, what in (
        (1.9, "Kafka cannot be reached."),
        (2.1, "Kafka cannot be reached from here, but workers go on."),
    ):
        trouble = msgspec.structs.replace(UNREACHABLE, lasted=lasted)
        found = causes(status(partition(0, STALE), sources=(silent,), trouble=trouble))
        assert what in [cause.what for cause in found]


def test_dead_letters_that_kafka_refuses_are_a_notice_while_the_partition_is_fresh() -> None:
    """All looked well: no letter was in Kafka, and each partition was fresh."""
    refused = partition(0, outage="Kafka: [Error 10] MessageSizeTooLargeError", letters=2)
    found = only(status(refused, partition(1, letters=1)))
    assert (found.name, found.severity, found.partitions) == (
        "dead-letters-refused", Severity.NOTICE, [],
    )  # fmt: skip
    assert found.what == "Kafka does not take the dead letters of partition 0."


def test_dead_letters_are_refused_only_by_kafka_and_only_where_all_else_goes_on() -> None:
    waiting = partition(0, outage="Redis: Connection refused", letters=1)
    late = partition(1, LATE, damage="facts", outage="Kafka: no broker answers", letters=1)
    assert names(status(waiting, late)) == ["partition-damaged"]


def test_a_clock_of_redis_that_jumped_is_no_outage_of_redis() -> None:
    jumped = f"Redis: {JUMPED}, and is not believed before 30 s"
    found = only(status(*cut_off(0, outage=jumped), *cut_off(1, owner="b", outage=jumped)))
    assert (found.name, found.since, found.partitions) == ("clock-jumped", None, [0, 1])


def test_redis_that_refuses_writes_explains_every_partition() -> None:
    found = status(partition(0, STALE), partition(1, STALE, "b"))
    (cause,) = causes(msgspec.structs.replace(found, refused_writes="it cannot save to its disk"))
    assert (cause.name, cause.severity, cause.partitions) == (
        "redis-refuses-writes", Severity.OUTAGE, [0, 1],
    )  # fmt: skip


def test_without_a_status_the_reason_decides_the_cause() -> None:
    found = [
        missing_status("redis://r:2", error, NOW)
        for error in (
            RedisConnectionError("Error 111 connecting to r:2. Connect call failed ('r', 2)."),
            AuthenticationError("WRONGPASS"),
            PartitionCountError("allowed-agents:partitions in Redis is not a number"),
        )
    ]
    assert [cause.name for cause in found] == [
        "redis-unreachable", "redis-refused", "partition-count-damaged",
    ]  # fmt: skip
    for cause in found:
        document, anchor = cause.runbook.split("#")
        assert anchor in anchors(REPOSITORY / "docs" / document)


def test_all_workers_that_died_are_one_cause() -> None:
    found = only(status(partition(0, STALE), partition(1, STALE, "b")))
    assert (found.name, found.what) == ("workers-gone", "All 2 workers are silent.")


def test_without_a_claim_no_worker_has_ever_run() -> None:
    assert only(status()).name == "no-worker"
    assert only(status(partition(0, UNCLAIMED))).what == "No worker has claimed a partition yet."


def test_workers_that_wait_for_topics_are_not_taken_for_none() -> None:
    found = only(status(trouble=MISSING))
    assert (found.name, found.what) == (
        "topics-missing", "Topics are missing in Kafka, and workers wait for them.",
    )  # fmt: skip
    assert found.detail == "missing in Kafka at k:1: a.membership"


def test_a_kafka_that_is_away_comes_before_workers_that_wait_for_it() -> None:
    for found in (
        status(trouble=UNREACHABLE),
        status(partition(0, UNCLAIMED), trouble=UNREACHABLE),
    ):
        cause = only(found)
        assert (cause.name, cause.severity) == ("kafka-unreachable", Severity.OUTAGE)
        assert cause.lookups == "Lookups get 503."


def test_a_kafka_that_is_away_never_leaves_lookups_answered_in_an_outage() -> None:
    found = causes(status(partition(0, STALE, damage="facts"), trouble=UNREACHABLE))
    assert [(c.name, c.lookups) for c in found] == [
        ("partition-damaged", "Lookups get 503."), ("kafka-unreachable", "Lookups get 503."),
    ]  # fmt: skip


def test_two_causes_that_leave_nothing_answered_are_two_outages() -> None:
    found = causes(status(partition(0, UNCLAIMED, damage="unreadable"), partition(1, STALE)))
    assert [(c.name, c.severity, c.lookups) for c in found] == [
        (name, Severity.OUTAGE, "Lookups get 503.")
        for name in ("partition-damaged", "workers-gone")
    ]


def test_beside_another_cause_not_all_others_are_answered() -> None:
    found = causes(status(
        partition(0), partition(1, STALE, damage="facts"), partition(2, STALE, "b"),
        partition(3, LATE, "c"),
    ))  # fmt: skip
    assert [c.lookups for c in found] == [
        "Lookups of partition 1 and of unknown tokens get 503; others are answered unless another "
        "cause names them.",
        "Lookups of partition 2 and of unknown tokens get 503; others are answered unless another "
        "cause names them.",
    ]


def test_partitions_that_cannot_be_read_may_have_workers() -> None:
    damaged = [partition(n, UNCLAIMED, damage="unreadable") for n in range(2)]
    assert names(status(*damaged)) == ["partition-damaged"]
    assert names(status(*damaged, partition(2, UNCLAIMED))) == [
        "partition-damaged", "partitions-unclaimed",
    ]  # fmt: skip


def test_dead_workers_are_named_beside_a_wrong_prefix_and_no_topics_are_to_be_created() -> None:
    found = {c.name: c for c in causes(status(partition(0, STALE), trouble=MISSING))}
    assert set(found) == {"workers-gone", "topics-missing"}
    missing = found["topics-missing"]
    assert missing.what == "Topics are missing in Kafka with the prefix `foo-`."
    assert missing.advice == "Set PROJECTOR_TOPIC_PREFIX as for the workers."


def test_topics_that_are_missing_although_workers_go_on_are_those_of_another_prefix() -> None:
    found = only(status(partition(0), trouble=MISSING))
    assert (found.name, found.severity) == ("other-topics", Severity.NOTICE)
    assert found.what == (
        "The workers of this Redis take their events from other topics than those with the prefix "
        "`foo-`."
    )


def test_a_partition_that_is_stuck_beside_fresh_ones_of_its_worker_has_its_own_cause() -> None:
    found = only(status(partition(0), partition(1, STALE)))
    assert (found.name, found.severity) == ("partitions-stale", Severity.DEGRADED)
    assert "the log of a for" in found.advice


def test_a_silent_source_is_blamed_and_not_the_worker_that_waits_for_it() -> None:
    silent = SourceStatus("gitlab", SourceHealth.SILENT, 30.0, [0, 1])
    found = only(status(partition(0, STALE), partition(1, STALE), sources=(silent,)))
    assert (found.name, found.severity, found.what, found.since) == (
        "source-silent", Severity.OUTAGE, "The source gitlab has been silent.", NOW - 30_000,
    )  # fmt: skip


def test_the_cause_with_more_refused_partitions_comes_first() -> None:
    silent = SourceStatus("gitlab", SourceHealth.SILENT, 30.0, [0])
    worse = [partition(n, STALE, "b") for n in (2, 3)]
    found = status(partition(0, STALE), partition(1), *worse, sources=(silent,))
    assert names(found) == ["worker-gone", "source-silent"]


def test_dead_letters_are_a_notice() -> None:
    found = only(status(partition(0), dead_letters=1))
    assert (found.name, found.severity) == ("dead-letters", Severity.NOTICE)
    assert found.what == "1 event had a fault and became a dead letter."


def test_dead_letters_that_were_all_replayed_are_no_trouble() -> None:
    found = status(partition(0), dead_letters=4)
    assert causes(msgspec.structs.replace(found, replayed=4)) == []
    waiting = only(msgspec.structs.replace(found, replayed=1))
    assert waiting.what == "3 events had a fault and became dead letters."
