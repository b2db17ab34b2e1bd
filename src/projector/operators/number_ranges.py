"""Numbers folded into ranges, for people to read."""

from collections.abc import Iterable
from typing import Final

MAX_RANGES: Final = 8


def number_ranges(numbers: Iterable[int], others: str) -> list[str]:
    """Write `3`, `0-7`, and `others` beyond `MAX_RANGES`; two neighbours are not a range."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    written = [
        text
        for run in found
        for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))
    ]
    return [*written[:MAX_RANGES], others] if len(written) > MAX_RANGES else written
