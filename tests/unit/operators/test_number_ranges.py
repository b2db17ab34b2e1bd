"""Numbers as ranges: nothing is lost, and a long list is cut."""

from hypothesis import given
from hypothesis import strategies as st

from projector.operators.number_ranges import MAX_RANGES, number_ranges


@given(st.sets(st.integers(0, 40)))
def test_the_ranges_name_exactly_the_numbers(numbers: set[int]) -> None:
    written = number_ranges(numbers, "others")
    if len(written) <= MAX_RANGES:
        ends = [[int(end) for end in text.split("-")] for text in written]
        assert [n for each in ends for n in range(each[0], each[-1] + 1)] == sorted(numbers)
    else:
        assert (len(written), written[-1]) == (MAX_RANGES + 1, "others")


def test_two_neighbours_stay_two_numbers() -> None:
    assert number_ranges([4, 3, 9, 0, 8, 7, 3], "others") == ["0", "3", "4", "7-9"]
