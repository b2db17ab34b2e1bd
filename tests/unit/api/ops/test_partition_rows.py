"""Partitions folded by worker, and the ones that are listed singly."""

from api.ops.partition_rows import (
    MAX_LISTED,
    PartitionFold,
    fold_workers,
    listed_partitions,
)
from projector.operators.number_ranges import MAX_RANGES
from projector.operators.status_model import PartitionHealth
from tests.made_up_status import FACTS, TOKENS, partition, status


def test_fresh_partitions_are_ranges_of_their_worker() -> None:
    found = status([partition(n, n // 8) for n in range(16)])
    rows = fold_workers(found)
    assert [row.partitions for row in rows] == [
        {PartitionHealth.FRESH: PartitionFold(8, "0-7")},
        {PartitionHealth.FRESH: PartitionFold(8, "8-15")},
    ]
    assert (rows[0].facts, rows[0].live_tokens, rows[0].lag) == (8 * FACTS, 8 * TOKENS, 0)
    assert listed_partitions(found.partitions) == []


def test_the_worst_worker_comes_first_after_what_has_no_worker() -> None:
    ages = {0: 0.2, 1: 0.2, 2: 31.0, 3: None}
    found = status([partition(n, n % 4, 4.0 if n == 5 else ages[n % 4]) for n in range(12)])
    rows = fold_workers(found)
    assert [row.owner and row.owner[:8] for row in rows] == [
        None,
        "worker-2",
        "worker-1",
        "worker-0",
    ]
    assert rows[0].partitions == {PartitionHealth.UNCLAIMED: PartitionFold(3, "3, 7, 11")}


def test_a_partition_whose_worker_is_silent_is_in_the_worker_s_row_alone() -> None:
    found = status([partition(0, 0, 31.0), partition(1, 1), partition(2, 1, 14.0)])
    assert [each.partition for each in listed_partitions(found.partitions)] == [2]


def test_of_many_single_partitions_the_worst_are_listed_by_number() -> None:
    ages = {n: 0.2 if n == 0 else 40.0 - n for n in range(30)}
    found = status([partition(n, 0, age) for n, age in ages.items()])
    numbers = [each.partition for each in listed_partitions(found.partitions)]
    assert numbers == list(range(1, MAX_LISTED + 1))


def test_many_ranges_are_cut() -> None:
    found = status([partition(n, n % 2) for n in range(200)])
    fold = fold_workers(found)[0].partitions[PartitionHealth.FRESH]
    assert fold.count == 100
    assert fold.numbers.count(",") == MAX_RANGES
    assert fold.numbers.endswith(", …")
