"""The clock that counts a suspended machine's sleep."""

import sys
import time

import pytest

from projector.elapsed import CLOCK, elapsed


@pytest.mark.skipif(sys.platform != "linux", reason="other systems name their clocks otherwise")
def test_the_clock_counts_the_sleep_of_a_suspended_machine() -> None:
    assert CLOCK == time.CLOCK_BOOTTIME != time.CLOCK_MONOTONIC


def test_the_clock_runs_in_seconds() -> None:
    before, own = time.monotonic(), elapsed()
    time.sleep(0.05)
    passed = elapsed() - own
    assert 0.05 <= passed <= time.monotonic() - before + 0.01
