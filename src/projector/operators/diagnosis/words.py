"""Words that the sentences of all causes share."""

from collections.abc import Collection

from projector.operators.number_ranges import number_ranges


def some_partitions(numbers: Collection[int]) -> str:
    """Write `partition 3`, `partitions 3 and 4`, `partitions 0-7 and 9`."""
    found = number_ranges(numbers, "others")
    listed = " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    return f"partition{'' if len(numbers) == 1 else 's'} {listed}"


def many(count: int, what: str) -> str:
    """Write `1 event`, `2 events`."""
    return f"{count} {what}{'' if count == 1 else 's'}"
