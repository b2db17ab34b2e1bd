"""Results that are kept: for as long as they were costly, within a bound."""

import pytest

from api.ops import background
from api.ops.background import FAILED_KEPT_S, CachedCall


class Clock:
    """Takes the place of the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("took", "most", "kept"),
    [(0.01, 1.0, 0.5), (0.15, 1.0, 0.75), (2.0, 1.0, 1.0), (5.0, 1.0, 1.0), (2.0, 30.0, 10.0)],
)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_result_is_kept_longer_if_it_took_long_within_a_bound(
    monkeypatch: pytest.MonkeyPatch, took: float, most: float, kept: float, fails: bool
) -> None:
    """A Kafka that hung showed after 14.6 s: a wait of two seconds was kept for ten."""
    clock = Clock()
    monkeypatch.setattr(background, "time", clock)
    computed = 0

    async def compute() -> None:
        nonlocal computed
        computed += 1
        clock.now += took
        if fails:
            raise TimeoutError

    async def get() -> int:
        try:
            await call.get()
        except TimeoutError:
            assert fails
        return computed

    call = CachedCall(compute, 0.5, most)
    assert await get() == 1
    kept = FAILED_KEPT_S if fails else kept
    clock.now += kept - 0.01
    assert await get() == 1
    clock.now += 0.02
    assert await get() == 2
